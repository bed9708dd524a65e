"""The style of every plot: colours, axes, tick labels, and the files that a figure is written to."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distinguishable with any kind of colour vision (Okabe and Ito, 2008).
TRAIN, TEST, THIRD, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8F98"
CYCLE = (TRAIN, TEST, THIRD, "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#F0E442")
MARKERS = "osD^vPX*"  # the second distinction, for print without colour
KINDS = ("pdf", "svg", "png")
FONT_SIZE = 10.0
PRINT_DPI = 300
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E5E9",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#6E727A",
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",  # keep text as text
    "svg.hashsalt": "figures",  # deterministic output
    "pdf.fonttype": 42,  # embed TrueType fonts, as journals ask
}


class NothingToDraw(ValueError):
    """A figure has no data; the message is the reason."""


def style(font_size: float = FONT_SIZE) -> Any:
    """Context manager that applies the style; matplotlib reads it when artists are created, not when one is saved."""
    from matplotlib import rc_context

    small = 0.9 * font_size
    sizes = {"font.size": font_size, "axes.titlesize": 1.1 * font_size, "legend.fontsize": small}
    return rc_context(_STYLE | sizes | {"xtick.labelsize": small, "ytick.labelsize": small})


def styled(draw: Callable) -> Callable:
    """Decorator that applies the style at its usual font size."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with style():
            return draw(*args, **kwargs)

    return wrapper


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, np.ndarray]:
    """Make a figure of a size in inches with axes (rows, columns), without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


@styled
def encoded(figure: Figure, kind: str, dpi: int = 130) -> bytes:
    """Encode a figure as a "pdf", "png" or "svg" file; `dpi` is the resolution of the PNG."""
    file = io.BytesIO()
    # No date, so that the output is deterministic.
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}[kind]
    figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def write_figure(folder: Path, name: str, draw: Callable[[], Figure]) -> None:
    """Write a figure as PDF, SVG and PNG, or print why there is none."""
    try:
        figure = draw()
    except NothingToDraw as reason:
        print(f"{name} left out: {reason}")
        return
    for kind in KINDS:
        write_atomically(folder / f"{name}.{kind}", encoded(figure, kind, PRINT_DPI))
    print(f"{folder / name}: {', '.join(KINDS[:-1])} and {KINDS[-1]}")


def as_share(ax: Axes, top: float = 1.03) -> None:
    """Format the y axis as percentages from 0 to 100."""
    from matplotlib.ticker import PercentFormatter

    ax.set_ylim(-0.03, top)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def as_log(axis: Any) -> None:
    """Make an axis logarithmic, with labels such as 0.5, 20 and 1,000 instead of powers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis._set_axes_scale("log")
    low, high = axis.get_view_interval()
    wide = high / max(low, 1e-300) > 300
    axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def as_count(axis: Any) -> None:
    """Format a linear axis of counts in full, as in 40,000."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
