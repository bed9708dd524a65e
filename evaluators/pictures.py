"""Pictures of a model at work: the grid after each supervision step, as one sheet (PNG) or as an animation (GIF).

Shapes: S cells of a puzzle, H and W rows and columns of its grid.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dataset import arc, maze
from evaluators.families import Family, Verdict
from evaluators.inference import Step
from evaluators.show import Kind, kinds

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

# More panels than this are too small to read; the steps that changed something are kept first.
MOST_PANELS = 16
MOST_FRAMES = 64
_GRID_SIDE, _MARGIN, _MIN_WIDTH = 300, 12, 236  # pixels
_FRAME_SECONDS, _LAST_FRAME_SECONDS = 0.7, 3.0

_PAPER, _INK, _FAINT, _RULE = (255, 255, 255), (32, 33, 36), (110, 114, 122), (186, 190, 198)
_GIVEN, _SURE = (226, 228, 233), (122, 172, 240)
_CHANGED, _WRONG, _RIGHT = (232, 110, 0), (214, 40, 40), (24, 132, 62)
# Around what changed, in a colour that the family's cells do not have.
_FRAMES = defaultdict(lambda: (_CHANGED, "orange"), maze=((30, 90, 230), "blue"), arc=(_PAPER, "white"))


@dataclass(frozen=True)
class Panel:
    """What a picture shows of the puzzle (`number` 0) or of its answer after a supervision step."""

    number: int
    tokens: np.ndarray  # (S,)
    kind: np.ndarray | None = None  # (S,) `evaluators.show.Kind`
    confidence: np.ndarray | None = None  # (S,) in 0..1
    halt_probability: float | None = None
    says_stop: bool = False
    num_changed: int | None = None  # since the step before; None where there is none to compare with
    verdict: Verdict | None = None

    @classmethod
    def of(
        cls,
        family: Family,
        question: np.ndarray,
        previous: np.ndarray | None,
        answer: np.ndarray,
        step: Step,
        verdict: Verdict,
        confidence: np.ndarray | None = None,
    ) -> Panel:
        """The panel of a step's first row: its `answer` (S,), as the family counts it, after the `previous` one.

        `confidence` (S,) takes the place of the model's own.
        """
        if confidence is None:
            confidence = step.confidence[0].float().cpu().numpy()
        return cls(
            step.number,
            answer,
            kinds(family, question, previous, answer),
            confidence,
            float(step.halt_probability[0]),
            bool(step.says_stop[0]),
            None if previous is None else int((answer != previous).sum()),
            verdict,
        )


def sheet(family: Family, panels: list[Panel]) -> bytes:
    """A PNG of the panels in rows of up to four, at most `MOST_PANELS` of them, the last one always."""
    shown = thinned(panels, MOST_PANELS)
    pictures = [_panel(family, panel, panels[-1].number) for panel in shown]
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    per_row = min(len(shown), *sorted((3, 4, 5), key=lambda columns: (-len(shown) % columns, -columns))[:1])
    notes = [_legend(family)]
    if len(shown) < len(panels):
        notes.append(f"{len(shown) - 1} of {len(panels) - 1} steps are shown")
    rows = -(-len(shown) // per_row)
    total = (per_row * width + 2 * _MARGIN, rows * height + 2 * _MARGIN)
    text = [line for note in notes for line in _wrapped(note, 13, total[0] - 2 * _MARGIN)]
    canvas, draw = _canvas(total[0], total[1] + 20 * len(text))
    for number, picture in enumerate(pictures):
        canvas.paste(picture, (_MARGIN + number % per_row * width, _MARGIN + number // per_row * height))
    for number, line in enumerate(text):
        draw.text((2 * _MARGIN, total[1] - 6 + 20 * number), line, _FAINT, _font(13))
    return _encoded(canvas, "PNG", optimize=True)


def animation(family: Family, panels: list[Panel]) -> bytes:
    """A GIF that shows one panel after the other, at most `MOST_FRAMES` of them, and starts again."""
    shown = thinned(panels, MOST_FRAMES)
    pictures = [_panel(family, panel, panels[-1].number) for panel in shown]
    width = max(picture.width for picture in pictures)
    legend = _wrapped(_legend(family), 12, width - 2 * _MARGIN)
    drawn = []
    for picture in pictures:
        frame, draw = _canvas(width, picture.height + 16 * len(legend) + _MARGIN)
        frame.paste(picture, (0, 0))
        for number, line in enumerate(legend):
            draw.text((_MARGIN, picture.height + 16 * number), line, _FAINT, _font(12))
        drawn.append(frame)
    # One palette for all: otherwise the colours of cells that stay flicker from frame to frame.
    every, _ = _canvas(width, sum(frame.height for frame in drawn))
    for number, frame in enumerate(drawn):
        every.paste(frame, (0, number * frame.height))
    palette = every.quantize(255)
    frames = [frame.quantize(palette=palette, dither=0) for frame in drawn]
    durations = [1000 * _FRAME_SECONDS] * (len(frames) - 1) + [1000 * _LAST_FRAME_SECONDS]
    return _encoded(
        frames[0], "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=1
    )


def still(family: Family, panel: Panel, num_steps: int, scale: float = 1.0) -> Image.Image:
    """One panel as a Pillow image, at a multiple of its usual size."""
    picture = _panel(family, panel, num_steps)
    if scale == 1:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)))


def halting_chart(picture: Image.Image, panels: list[Panel], current: int) -> Image.Image:
    """The picture above bars of the halting probability after each step, the current one marked."""
    height, steps = 90, panels[1:]
    canvas, draw = _canvas(picture.width, picture.height + height + 44)
    canvas.paste(picture, (0, 0))
    top, base = picture.height, picture.height + height
    draw.text((_MARGIN, top - 4), "halting probability after each step", _FAINT, _font(14))
    width = (picture.width - 2 * _MARGIN) / len(steps)
    for place, panel in enumerate(steps):
        left, right = _MARGIN + place * width, _MARGIN + (place + 1) * width - (2 if width > 6 else 0)
        colour = _RIGHT if panel.says_stop else _FAINT
        if panel.number != current:
            colour = _mix(colour, _PAPER, 0.6)
        draw.rectangle((left, base - 2 - (height - 22) * panel.halt_probability, right, base), colour)
        if panel.number in (1, current, steps[-1].number):
            bold = panel.number == current
            draw.text(((left + right) / 2, base + 6), str(panel.number), _INK, _font(13, bold), anchor="ma")
    draw.line((_MARGIN, base, picture.width - _MARGIN, base), _RULE)
    return canvas


def thinned(panels: list[Panel], most: int) -> list[Panel]:
    """At most `most` panels: the puzzle and the last step, then those that changed most cells, in their order."""
    if len(panels) <= most:
        return panels
    between = sorted(panels[1:-1], key=lambda panel: (-(panel.num_changed or 0), panel.number))[: most - 2]
    return [panels[0], *sorted(between, key=lambda panel: panel.number), panels[-1]]


def _panel(family: Family, panel: Panel, num_steps: int) -> Image.Image:
    """Title, halting bar, grid and verdict, all panels of a puzzle being of one size."""
    height, width = _extent(family, panel)
    size = int(np.clip(_GRID_SIDE // max(height, width), 10, 59))
    # ARC answers differ in extent: the size of the largest that fits keeps the panels alike.
    side = _GRID_SIDE if family.look.family == "arc" else size * max(height, width)
    body = max(_MIN_WIDTH, side)
    canvas, draw = _canvas(body + 2 * _MARGIN, side + 116)
    left = _MARGIN
    title = "puzzle" if panel.number == 0 else f"step {panel.number} of {num_steps}"
    draw.text((left, 8), title, _INK, _font(17, bold=True))
    if panel.number:
        if panel.num_changed is not None:
            colour = _CHANGED if panel.num_changed else _FAINT
            draw.text((left + body, 11), f"{panel.num_changed} changed", colour, _font(14), anchor="ra")
        _halting_bar(draw, (left, 34), body, panel)
    origin = (left, 66)
    _grid(draw, family, panel, origin, size, (height, width))
    if panel.verdict is not None:
        colour = {True: _RIGHT, False: _WRONG, None: _FAINT}[panel.verdict.solved]
        mark = {True: "solved: ", False: "", None: ""}[panel.verdict.solved]
        lines = _wrapped(mark + panel.verdict.words, 13, body)[:2]
        for number, line in enumerate(lines):
            draw.text((left, origin[1] + side + 8 + 17 * number), line, colour, _font(13))
    return canvas


def _halting_bar(draw: ImageDraw.ImageDraw, place: tuple[int, int], width: int, panel: Panel) -> None:
    left, top = place
    words = f"halting {panel.halt_probability:.1%}" + (", says stop" if panel.says_stop else "")
    colour = _RIGHT if panel.says_stop else _FAINT
    draw.text((left, top), words, colour, _font(14))
    draw.rectangle((left, top + 20, left + width - 1, top + 24), (233, 235, 239))
    filled = round(width * panel.halt_probability)
    if filled:
        draw.rectangle((left, top + 20, left + filled - 1, top + 24), colour)


def _extent(family: Family, panel: Panel) -> tuple[int, int]:
    """Rows and columns that are drawn: of ARC without the padding."""
    if family.look.family != "arc":
        return family.look.shape
    rows, columns = np.nonzero(panel.tokens.reshape(family.look.shape) >= arc.FIRST_COLOUR)
    return int(rows.max(initial=0)) + 1, int(columns.max(initial=0)) + 1


def _grid(draw, family: Family, panel: Panel, origin, size: int, extent: tuple[int, int]) -> None:
    look = family.look
    count = len(panel.tokens)
    kind = np.full(count, Kind.PLAIN) if panel.kind is None else panel.kind
    confidence = np.ones(count) if panel.confidence is None else panel.confidence
    fields = [values.reshape(look.shape) for values in (panel.tokens, kind, confidence)]
    marked = []
    for row in range(extent[0]):
        for column in range(extent[1]):
            token, mark, sure = (values[row, column] for values in fields)
            left, top = origin[0] + column * size, origin[1] + row * size
            box = (left, top, left + size, top + size)
            _cell(draw, family, box, int(token), Kind(mark), float(sure), filled=panel.number > 0)
            if mark in (Kind.CHANGED, Kind.BROKEN):
                marked.append((box, _WRONG if mark == Kind.BROKEN else _FRAMES[look.family][0]))
    if look.box is not None:
        _box_rules(draw, look.box, origin, size)
    width = 3 if size >= 20 else 2
    for (left, top, right, bottom), colour in marked:
        draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=colour, width=width)
        if look.family == "arc":  # whose cells may be white or nearly so
            draw.rectangle((left + 3, top + 3, right - 3, bottom - 3), outline=_INK)


def _cell(draw, family: Family, box, token: int, kind: Kind, sure: float, *, filled: bool) -> None:
    """One cell; how sure the model is of it shades the colour that stands for its answer."""
    look, size = family.look, box[2] - box[0]
    if look.family == "maze":
        free, path = look.colours[maze.FREE], look.colours[maze.PATH]
        # A doubtful path cell is pale and a doubtful free cell tinted, but never so much that one looks like the other.
        shade = {maze.PATH: 0.4 + 0.6 * sure, maze.FREE: 0.3 * (1 - sure)}.get(token, 0.0) if filled else 0.0
        colour = _mix(free, path, shade) if token in (maze.FREE, maze.PATH) else tuple(look.colours[token])
        draw.rectangle(box, tuple(map(int, colour)))
        if token in (maze.START, maze.GOAL):
            draw.text(
                _middle(box), look.symbols[token], _PAPER, _font(max(8, size - 3), bold=True), anchor="mm"
            )
        return
    if look.family == "arc" or look.box is None:
        draw.rectangle(box, tuple(map(int, look.colours[token])), outline=(70, 72, 80))
        if filled and sure < 0.9 and token:
            # The colour is the answer itself, so doubt is a dot, the larger the less sure.
            radius = (size / 2 - 2) * (1 - sure)
            x, y = _middle(box)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), _PAPER, outline=_INK)
        if look.family != "arc":
            draw.text(_middle(box), look.symbols[token], _INK, _font(int(size * 0.5)), anchor="mm")
        return
    symbol = "?" if token == 0 else look.symbols[token].strip(".")
    given = kind == Kind.PLAIN and bool(symbol) if filled else bool(symbol)
    ground = _PAPER
    if given:
        ground = _GIVEN
    elif filled:
        ground = _mix(_PAPER, _SURE, sure)
    draw.rectangle(box, ground, outline=_RULE)
    draw.text(_middle(box), symbol, _INK, _font(int(size * 0.58), bold=given), anchor="mm")


def _box_rules(draw, box, origin, size: int) -> None:
    side = box.size * size
    for line in range(0, box.size + 1, box.columns):
        x = origin[0] + line * size
        draw.line((x, origin[1], x, origin[1] + side), _INK, 2)
    for line in range(0, box.size + 1, box.rows):
        y = origin[1] + line * size
        draw.line((origin[0], y, origin[0] + side, y), _INK, 2)


def _legend(family: Family) -> str:
    shade = {
        "sudoku": "bold on grey: given; the bluer, the surer",
        "maze": "orange: path, the stronger the surer",
    }.get(family.look.family, "white dots: the larger, the less sure")
    broken = "; red frame: contradicts the puzzle" if family.completes else ""
    frame = _FRAMES[family.look.family][1]
    return f"{shade}; {frame} frame: changed in this step{broken}"


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (width, height), _PAPER)
    return canvas, ImageDraw.Draw(canvas)


@lru_cache
def _font(size: int, bold: bool = False):
    """DejaVu Sans, which matplotlib brings: it has a bold face, unlike Pillow's own."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/{name}", size)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken at spaces."""
    lines, font = [""], _font(size)
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _middle(box: tuple[int, int, int, int]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _mix(one, other, share: float) -> tuple[int, ...]:
    """`one` with a share of `other`, 0 to 1."""
    return tuple(round((1 - share) * float(a) + share * float(b)) for a, b in zip(one, other, strict=True))


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
