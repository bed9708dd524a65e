"""The curves of several runs in one panel, sized for a column of a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from evaluators.drawing.style import CYCLE, MARKERS, as_count, as_log, as_share, new_figure, style
from evaluators.reports.run_groups import METRICS, SHARES, Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CURVES = len(CYCLE)
_MARKED = 40  # curves of at most so many points get markers
_AXES = {
    "step": "training step",
    "flops": "training FLOP",
    "puzzles": "training puzzles",
    "minutes": "training minutes",
}


def overlay(
    curves: Sequence[Curve], panel: str, split: str, x: str, *, width: float, font_size: float
) -> Figure:
    """Plot at most `MOST_CURVES` curves with their bands; `width` in inches, `font_size` in points."""
    with style(font_size):
        figure, axes = new_figure(1, 1, (width, 0.72 * width))
        (ax,) = axes.flat
        scale, unit = _unit(max(float(curve.x.max()) for curve in curves)) if x == "flops" else (1.0, "")
        for colour, marker, curve in zip(CYCLE, MARKERS, curves, strict=False):
            at = curve.x / scale
            if curve.band:
                ax.fill_between(at, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
            shown = marker if len(at) <= _MARKED else None
            size, line = 0.35 * font_size, 0.14 * font_size
            label = f"{curve.label} ({curve.num_runs} runs)" if curve.num_runs > 1 else curve.label
            ax.plot(
                at, curve.middle, color=colour, marker=shown, markersize=size, linewidth=line, label=label
            )
        ax.set(xlabel=_AXES[x] + unit, ylabel=f"{METRICS[panel][1]} ({split})")
        ax.set_xlim(left=0)
        as_count(ax.xaxis)
        if panel in SHARES:
            as_share(ax)
        elif panel == "loss":
            as_log(ax.yaxis)
        else:
            ax.set_ylim(bottom=0)
        if x in ("flops", "minutes"):
            ax.xaxis.set_major_formatter("{x:,g}")
            ax.xaxis.get_major_locator().set_params(integer=False)
        ax.legend()
        return figure


def _unit(largest: float) -> tuple[float, str]:
    """Return the power of ten, a multiple of three, that an axis is in, and how its label says so."""
    power = 3 * int(math.log10(largest) // 3) if largest >= 1000 else 0
    return 10.0**power, rf", in $10^{{{power}}}$" if power else ""
