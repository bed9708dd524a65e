"""Draw grids as pictures for the dataset report, the images and animations of `solve.py`, and the web page.

Shapes: S cells of a sequence.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dataset.families.grid_style import GridStyle, Kind

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

PAPER, INK, FAINT, RULE = (255, 255, 255), (32, 33, 36), (110, 114, 122), (186, 190, 198)
WRONG = (214, 40, 40)
_GIVEN, _SURE = (226, 228, 233), (122, 172, 240)


def grid_picture(style: GridStyle, tokens: np.ndarray) -> Image.Image:
    """Draw a grid of tokens (S,) as a picture."""
    rows, columns = extent(style, tokens)
    size = 8 if style.narrow else 17
    picture, draw = canvas(columns * size + 1, rows * size + 1)
    draw_grid(draw, style, tokens, (0, 0), size)
    return picture


def extent(style: GridStyle, tokens: np.ndarray) -> tuple[int, int]:
    """Return the number of rows and columns drawn for tokens (S,)."""
    rows, columns = style.window(style.known(tokens))
    return rows.stop - rows.start, columns.stop - columns.start


def draw_grid(
    draw: ImageDraw.ImageDraw,
    style: GridStyle,
    tokens: np.ndarray,
    origin: tuple[int, int],
    size: int,
    kind: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
) -> None:
    """Draw tokens (S,) with cells of `size` pixels.

    `kind` (S,) and `confidence` (S,) in 0..1 are those of an answer; without `kind` the grid is a question.
    """
    known = style.known(tokens)
    filled = kind is not None
    kind = np.full(len(known), Kind.PLAIN) if kind is None else kind
    confidence = np.ones(len(known)) if confidence is None else confidence
    window = style.window(known)
    fields = [values.reshape(style.shape)[window] for values in (known, kind, confidence)]
    marked = []
    for row, column in np.ndindex(fields[0].shape):
        token, mark, sure = (values[row, column] for values in fields)
        left, top = origin[0] + column * size, origin[1] + row * size
        box = (left, top, left + size, top + size)
        _cell(draw, style, box, int(token), Kind(mark), float(sure), filled=filled)
        if mark in (Kind.CHANGED, Kind.BROKEN):
            marked.append((box, WRONG if mark == Kind.BROKEN else style.frame[0]))
    if style.lines is not None:
        _rules(draw, style.lines, fields[0].shape, origin, size)
    width = 3 if size >= 20 else 2
    for (left, top, right, bottom), colour in marked:
        draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=colour, width=width)
        if style.frame[0] == PAPER:  # cells may be almost white
            draw.rectangle((left + 3, top + 3, right - 3, bottom - 3), outline=INK)


def legend(style: GridStyle, *, completes: bool) -> str:
    """Explain shades and frames; with `completes`, answers keep the given cells, so they can contradict them."""
    broken = "; red frame: contradicts the puzzle" if completes else ""
    return f"{style.shade}; {style.frame[1]} frame: changed in this step{broken}"


def _cell(draw, style: GridStyle, box, token: int, kind: Kind, sure: float, *, filled: bool) -> None:
    """Draw one cell; confidence shades the colour of the answer."""
    size = box[2] - box[0]
    if style.cells == "path":
        free, path = style.blend
        # Uncertain path cells are pale and uncertain free cells tinted, but they always remain distinguishable.
        shade = (
            {path: 0.4 + 0.6 * sure, free: 0.3 * (1 - sure)}.get(token, 0.0)
            if filled
            else float(token == path)
        )
        blended = token in style.blend
        colour = (
            mix(style.colours[free], style.colours[path], shade) if blended else tuple(style.colours[token])
        )
        draw.rectangle(box, tuple(map(int, colour)))
        if token in style.ends:
            draw.text(
                middle(box), style.symbols[token], PAPER, font(max(8, size - 3), bold=True), anchor="mm"
            )
        return
    if style.cells == "colours":
        draw.rectangle(box, tuple(map(int, style.colours[token])), outline=(70, 72, 80))
        if filled and sure < 0.9 and token:
            # The colour is the answer itself, so uncertainty is a dot: the larger, the less certain.
            radius = (size / 2 - 2) * (1 - sure)
            x, y = middle(box)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), PAPER, outline=INK)
        if style.coloured_symbols:
            draw.text(middle(box), style.symbols[token], INK, font(int(size * 0.5)), anchor="mm")
        return
    symbol = "?" if token == 0 else "" if token in style.empty_tokens else style.symbols[token]
    given = kind == Kind.PLAIN and bool(symbol) if filled else bool(symbol)
    ground = PAPER
    if given:
        ground = _GIVEN
    elif filled:
        ground = mix(PAPER, _SURE, sure)
    draw.rectangle(box, ground, outline=RULE)
    draw.text(middle(box), symbol, INK, font(int(size * 0.58), bold=given), anchor="mm")


def _rules(draw, lines: tuple[int, int], shape: tuple[int, int], origin: tuple[int, int], size: int) -> None:
    """Draw a thick line every `lines` = (rows, columns) cells."""
    height, width = (side * size for side in shape)
    for column in range(0, shape[1] + 1, lines[1]):
        x = origin[0] + column * size
        draw.line((x, origin[1], x, origin[1] + height), INK, 2)
    for row in range(0, shape[0] + 1, lines[0]):
        y = origin[1] + row * size
        draw.line((origin[0], y, origin[0] + width, y), INK, 2)


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Create a white picture and its drawing context."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (width, height), PAPER)
    return picture, ImageDraw.Draw(picture)


@lru_cache
def font(size: int, bold: bool = False):
    """Load DejaVu Sans from matplotlib, because the default font of Pillow has no bold face."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}", size)


def middle(box: tuple[int, int, int, int]) -> tuple[float, float]:
    """Return the centre of a box (left, top, right, bottom)."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def mix(one, other, share: float) -> tuple[int, ...]:
    """Blend `one` with a share of `other`, 0 to 1."""
    return tuple(round((1 - share) * float(a) + share * float(b)) for a, b in zip(one, other, strict=True))
