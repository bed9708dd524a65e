"""Accuracy against compute, as a table. Compute is counted in network applications per puzzle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.strategies.accounting import ORACLE, Tally

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
    name = f"oracle (by {judge(table)})" if curve == ORACLE else curve.replace("_", " ")
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


# Title of each share in the console's table, if the curve has it.
_COLUMNS = {
    "solved": "solved",
    "exact_accuracy": "exact",
    "token_accuracy": "token",
    "said_stop": "said stop",
}
SCORE_WORDS = {"solved": "solved by the rules", "exact_accuracy": "exact accuracy"}


def judge(table: Table) -> str:
    return "rules" if score_of(table) == "solved" else "labels"


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None


def _is_power(number: int) -> bool:
    return number & (number - 1) == 0
