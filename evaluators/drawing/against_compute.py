"""The figure of accuracy against compute at test time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from evaluators.drawing.style import CYCLE, NothingToDraw, as_log, as_share, new_figure, styled
from evaluators.score import wilson_interval
from evaluators.strategies.accounting import ORACLE
from evaluators.strategies.compute_curve import SCORE_WORDS, Table, judge, score_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOT_NAME = "accuracy_against_compute_{}"  # of a strategy

# Legend label and line style of each curve.
_TITLES = {
    "steps": ("all steps", "o-"),
    "halted": ("stopping when q_halt says so", "D"),
    "chains": ("chains, picked without labels", "o-"),
    ORACLE: ("oracle pass@K, picked by the {judge}", "o--"),
    "rungs": ("after each rung of the ladder", "o-"),
    "with_checker": ("stopping at the first valid answer, which uses the rules", "s"),
}


@styled
def accuracy_against_compute(curves: Mapping[str, Table], num_rows: Mapping[str, int], title: str) -> Figure:
    """Plot every curve that has accuracies, by the rules if they were counted by the rules, with 95% intervals.

    `num_rows` has the number of puzzles behind the score of each curve.
    """
    score = score_of([row for table in curves.values() for row in table])
    figure, axes = new_figure(1, 1, (7, 4.5))
    (ax,) = axes.flat
    for colour, (curve, table) in zip(CYCLE, curves.items(), strict=False):
        points = [row for row in table if row[score] is not None]
        if not points:
            continue
        name, line = _TITLES.get(curve, (curve, "o-"))
        x = [row["network_applications"] for row in points]
        y = np.array([row[score] for row in points])
        low, high = _intervals(y, num_rows[curve])
        if len(points) > 1:
            ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        else:
            ax.errorbar(x, y, np.abs([y - low, high - y]), color=colour, fmt="none", capsize=4)
        ax.plot(x, y, line, color=colour, label=name.format(judge=judge(table)), markersize=4)
        if curve in ("rungs", "chains"):
            for row in points:
                xy = row["network_applications"], row[score]
                ax.annotate(str(row["at"]), xy, textcoords="offset points", xytext=(4, -10), fontsize=7)
    if not ax.has_data():
        raise NothingToDraw("no row of the test data has labels")
    as_log(ax.xaxis)
    as_share(ax)
    ax.set(xlabel="network applications per puzzle", ylabel=f"{SCORE_WORDS[score]}, with 95% intervals")
    ax.set_title(title, fontsize=9)
    ax.legend()
    return figure


def _intervals(shares: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.array([wilson_interval(round(share * num_rows), num_rows) for share in shares]).T
    return low, high
