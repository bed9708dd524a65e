"""Accuracy against compute, as a table and a plot. Compute is counted in network applications per puzzle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.strategies.accounting import ORACLE, Tally
from utils.files import replacing

PLOT_NAME = "accuracy_against_compute_{}.png"  # of a strategy

# Legend label and line style of each curve.
_TITLES = {
    "steps": ("all steps", "o-"),
    "halted": ("stopping when q_halt says so", "D"),
    "chains": ("chains, picked without labels", "o-"),
    ORACLE: ("oracle pass@K, picked by the {judge}", "o--"),
    "rungs": ("after each rung of the ladder", "o-"),
    "with_checker": ("stopping at the first valid answer, which uses the rules", "s"),
}

Table = list[dict[str, float | str | None]]


def tables(tally: Tally, applications_per_step: int) -> dict[str, Table]:
    """Return the points of each curve; all values are per puzzle, over all its chains.

    `exact_accuracy` and `token_accuracy` are shares of the labelled puzzles (None without any). For puzzles with
    several right answers `solved` is the share of all puzzles whose answer is right by the rules. `said_stop` is the
    share of all puzzles whose answer was accepted by the halting rule, or by the checker if it decides; None for an
    oracle.
    """
    return {
        curve: [
            {
                "at": point,
                "supervision_steps": round(sums["steps"] / sums["rows"], 4),
                "network_applications": round(sums["steps"] * applications_per_step / sums["rows"], 4),
                **({"solved": _share(sums["solved"], sums["rows"])} if "solved" in sums else {}),
                "exact_accuracy": _share(sums["exact"], sums["labelled"]),
                "token_accuracy": _share(sums["accuracy"], sums["labelled"]),
                "said_stop": None if curve == ORACLE else _share(sums["said_stop"], sums["rows"]),
            }
            for point, sums in points.items()
        ]
        for curve, points in tally.curves.items()
    }


def score_of(table: Sequence[Mapping[str, Any]]) -> str:
    """Return the key of a curve's score: `solved` if it was counted by the rules, otherwise `exact_accuracy`."""
    return "solved" if any("solved" in row for row in table) else "exact_accuracy"


def compute_report(curves: dict[str, Table], tally: Tally, main_curve: str) -> dict[str, Any]:
    """Return compute per puzzle, every curve, and the details of rungs and halting if there are any.

    `main_curve` is that of the strategy. Raises KeyError if it has recorded others only.
    """
    main = curves[main_curve] if curves else []
    report: dict[str, Any] = {
        "network_applications_per_puzzle": main[-1]["network_applications"] if main else 0.0,
        "supervision_steps_per_puzzle": main[-1]["supervision_steps"] if main else 0.0,
        "curves": curves,
    }
    if tally.stages:
        report["rungs"] = tally.stages
    if {"halted", "steps"} <= curves.keys():
        halted, full = curves["halted"][0], curves["steps"][-1]
        seconds = {name: tally.seconds[name] for name in ("full", "halted")}
        scores = dict.fromkeys((score_of(curves["steps"]), "exact_accuracy"))
        report["halting"] = {
            **{key: halted[key] for key in scores},
            **{f"{key}_of_the_full_run": full[key] for key in scores},
            "mean_steps": halted["supervision_steps"],
            "steps_of_the_full_run": full["supervision_steps"],
            "fewer_network_applications": round(full["supervision_steps"] / halted["supervision_steps"], 4),
            "seconds": round(seconds["halted"], 3),
            "seconds_of_the_full_run": round(seconds["full"], 3),
            "faster_in_seconds": round(seconds["full"] / seconds["halted"], 3),
        }
    return report


def as_text(curve: str, table: Table) -> list[str]:
    """Format a curve for the console; long tables are reduced to the points 1, 2, 4, 8, ... and the last."""
    last = len(table) - 1
    shown = [row for i, row in enumerate(table) if len(table) <= 8 or i == last or _is_power(i + 1)]
    name = f"oracle (by {_judge(table)})" if curve == ORACLE else curve.replace("_", " ")
    width = max(len(name), *(len(str(row["at"])) for row in shown))
    columns = {key: title for key, title in _COLUMNS.items() if key in shown[0]}
    lines = ["  ".join([f"{name:>{width}}", "applications", *(f"{title:>7}" for title in columns.values())])]
    for row in shown:
        shares = ("-" if row[key] is None else f"{row[key]:.2%}" for key in columns)
        figures = [
            f"{share:>{max(7, len(title))}}" for share, title in zip(shares, columns.values(), strict=True)
        ]
        lines.append("  ".join([f"{row['at']:>{width}}", f"{row['network_applications']:12,.1f}", *figures]))
    return lines


def plot(curves: dict[str, Table], path: Path, title: str) -> None:
    """Plot every curve that has accuracies into a PNG file, by the rules if they were counted by the rules."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot, which would look for a display
    from matplotlib.ticker import LogLocator, PercentFormatter, StrMethodFormatter

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    score = score_of([row for table in curves.values() for row in table])
    for curve, table in curves.items():
        points = [row for row in table if row[score] is not None]
        if points:
            name, style = _TITLES.get(curve, (curve, "o-"))
            x = [row["network_applications"] for row in points]
            label = name.format(judge=_judge(table))
            axes.plot(x, [row[score] for row in points], style, label=label, markersize=4)
            if curve in ("rungs", "chains"):
                _annotate(axes, points, score)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="network applications per puzzle", ylabel=SCORE_WORDS[score])
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format=path.suffix[1:])


# Title of each share in the console's table, if the curve has it.
_COLUMNS = {
    "solved": "solved",
    "exact_accuracy": "exact",
    "token_accuracy": "token",
    "said_stop": "said stop",
}
SCORE_WORDS = {"solved": "solved by the rules", "exact_accuracy": "exact accuracy"}


def _judge(table: Table) -> str:
    return "rules" if score_of(table) == "solved" else "labels"


def _annotate(axes, points: Sequence[dict], score: str) -> None:
    for row in points:
        xy = row["network_applications"], row[score]
        axes.annotate(str(row["at"]), xy, textcoords="offset points", xytext=(4, -10), fontsize=7)


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0
