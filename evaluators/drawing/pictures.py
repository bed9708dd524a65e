"""Draw the grid after each supervision step, as one sheet (PNG) or as an animation (GIF).

Shapes: S cells of a puzzle.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dataset.drawing.picture import (
    FAINT,
    INK,
    PAPER,
    RULE,
    WRONG,
    canvas,
    draw_grid,
    extent,
    font,
    legend,
    mix,
)
from dataset.families.base import Family, Verdict
from evaluators.inference import Step

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

# More panels would be too small to read; steps that changed the most cells are preferred.
MOST_PANELS = 16
MOST_FRAMES = 64
_GRID_SIDE, _MARGIN, _MIN_WIDTH = 300, 12, 236  # pixels
_FRAME_SECONDS, _LAST_FRAME_SECONDS = 0.7, 3.0

_CHANGED, _RIGHT = (232, 110, 0), (24, 132, 62)


@dataclass(frozen=True)
class Panel:
    """The content of one panel: the puzzle (`number` 0), or the answer after a supervision step."""

    number: int
    tokens: np.ndarray  # (S,)
    kind: np.ndarray | None = None  # (S,) `dataset.families.grid_style.Kind`
    confidence: np.ndarray | None = None  # (S,) in 0..1
    halt_probability: float | None = None
    says_stop: bool = False
    num_changed: int | None = None  # since the previous step; None if there is none
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
        """Make the panel of the first row of a step, with its `answer` (S,) and the `previous` one.

        Both are as returned by `Family.counted`. `confidence` (S,) overrides that of the model.
        """
        if confidence is None:
            confidence = step.confidence[0].float().cpu().numpy()
        return cls(
            step.number,
            answer,
            family.kinds(question, previous, answer),
            confidence,
            float(step.halt_probability[0]),
            bool(step.says_stop[0]),
            None if previous is None else int((answer != previous).sum()),
            verdict,
        )


def sheet(family: Family, panels: list[Panel]) -> bytes:
    """Return a PNG with at most `MOST_PANELS` panels in rows of up to five; the last panel is always included."""
    shown = thinned(panels, MOST_PANELS)
    pictures = [_panel(family, panel, panels[-1].number) for panel in shown]
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    per_row = min(len(shown), *sorted((3, 4, 5), key=lambda columns: (-len(shown) % columns, -columns))[:1])
    notes = [legend(family.grid_style, completes=family.completes)]
    if len(shown) < len(panels):
        notes.append(f"{len(shown) - 1} of {len(panels) - 1} steps are shown")
    rows = -(-len(shown) // per_row)
    total = (per_row * width + 2 * _MARGIN, rows * height + 2 * _MARGIN)
    text = [line for note in notes for line in _wrapped(note, 13, total[0] - 2 * _MARGIN)]
    whole, draw = canvas(total[0], total[1] + 20 * len(text))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (_MARGIN + number % per_row * width, _MARGIN + number // per_row * height))
    for number, line in enumerate(text):
        draw.text((2 * _MARGIN, total[1] - 6 + 20 * number), line, FAINT, font(13))
    return _encoded(whole, "PNG", optimize=True)


def animation(family: Family, panels: list[Panel]) -> bytes:
    """Return a looping GIF of at most `MOST_FRAMES` panels."""
    shown = thinned(panels, MOST_FRAMES)
    pictures = [_panel(family, panel, panels[-1].number) for panel in shown]
    width = max(picture.width for picture in pictures)
    notes = _wrapped(legend(family.grid_style, completes=family.completes), 12, width - 2 * _MARGIN)
    drawn = []
    for picture in pictures:
        frame, draw = canvas(width, picture.height + 16 * len(notes) + _MARGIN)
        frame.paste(picture, (0, 0))
        for number, line in enumerate(notes):
            draw.text((_MARGIN, picture.height + 16 * number), line, FAINT, font(12))
        drawn.append(frame)
    # All frames share a palette; otherwise the colours of unchanged cells would flicker.
    every, _ = canvas(width, sum(frame.height for frame in drawn))
    for number, frame in enumerate(drawn):
        every.paste(frame, (0, number * frame.height))
    palette = every.quantize(255)
    frames = [frame.quantize(palette=palette, dither=0) for frame in drawn]
    durations = [1000 * _FRAME_SECONDS] * (len(frames) - 1) + [1000 * _LAST_FRAME_SECONDS]
    return _encoded(
        frames[0], "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=1
    )


def still(family: Family, panel: Panel, num_steps: int, scale: float = 1.0) -> Image.Image:
    """Draw one panel as a Pillow image, scaled by `scale`."""
    picture = _panel(family, panel, num_steps)
    if scale == 1:
        return picture
    return picture.resize((round(picture.width * scale), round(picture.height * scale)))


def halting_chart(picture: Image.Image, panels: list[Panel], current: int) -> Image.Image:
    """Append a bar chart of the halting probability after each step below the picture; mark the current step."""
    height, steps = 90, panels[1:]
    whole, draw = canvas(picture.width, picture.height + height + 44)
    whole.paste(picture, (0, 0))
    top, base = picture.height, picture.height + height
    draw.text((_MARGIN, top - 4), "halting probability after each step", FAINT, font(14))
    width = (picture.width - 2 * _MARGIN) / len(steps)
    for bar, panel in enumerate(steps):
        left, right = _MARGIN + bar * width, _MARGIN + (bar + 1) * width - (2 if width > 6 else 0)
        colour = _RIGHT if panel.says_stop else FAINT
        if panel.number != current:
            colour = mix(colour, PAPER, 0.6)
        draw.rectangle((left, base - 2 - (height - 22) * panel.halt_probability, right, base), colour)
        if panel.number in (1, current, steps[-1].number):
            bold = panel.number == current
            draw.text(((left + right) / 2, base + 6), str(panel.number), INK, font(13, bold), anchor="ma")
    draw.line((_MARGIN, base, picture.width - _MARGIN, base), RULE)
    return whole


def thinned(panels: list[Panel], most: int) -> list[Panel]:
    """Keep at most `most` panels in order: the puzzle, the last step, and the steps that changed the most cells."""
    if len(panels) <= most:
        return panels
    between = sorted(panels[1:-1], key=lambda panel: (-(panel.num_changed or 0), panel.number))[: most - 2]
    return [panels[0], *sorted(between, key=lambda panel: panel.number), panels[-1]]


def _panel(family: Family, panel: Panel, num_steps: int) -> Image.Image:
    """Draw title, halting bar, grid and verdict; all panels of a puzzle have the same size."""
    style = family.grid_style
    height, width = extent(style, panel.tokens)
    size = int(np.clip(_GRID_SIDE // max(height, width), 10, 59))
    # Cropped answers differ in extent, so panels have the size of the largest.
    side = _GRID_SIDE if style.first_cell_token else size * max(height, width)
    body = max(_MIN_WIDTH, side)
    picture, draw = canvas(body + 2 * _MARGIN, side + 116)
    left = _MARGIN
    title = "puzzle" if panel.number == 0 else f"step {panel.number} of {num_steps}"
    draw.text((left, 8), title, INK, font(17, bold=True))
    if panel.number:
        if panel.num_changed is not None:
            colour = _CHANGED if panel.num_changed else FAINT
            draw.text((left + body, 11), f"{panel.num_changed} changed", colour, font(14), anchor="ra")
        _halting_bar(draw, (left, 34), body, panel)
    origin = (left, 66)
    draw_grid(draw, style, panel.tokens, origin, size, panel.kind, panel.confidence)
    if panel.verdict is not None:
        colour = {True: _RIGHT, False: WRONG, None: FAINT}[panel.verdict.solved]
        mark = {True: "solved: ", False: "", None: ""}[panel.verdict.solved]
        lines = _wrapped(mark + panel.verdict.words, 13, body)[:2]
        for number, line in enumerate(lines):
            draw.text((left, origin[1] + side + 8 + 17 * number), line, colour, font(13))
    return picture


def _halting_bar(draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, panel: Panel) -> None:
    left, top = corner
    words = f"halting {panel.halt_probability:.1%}" + (", says stop" if panel.says_stop else "")
    colour = _RIGHT if panel.says_stop else FAINT
    draw.text((left, top), words, colour, font(14))
    draw.rectangle((left, top + 20, left + width - 1, top + 24), (233, 235, 239))
    filled = round(width * panel.halt_probability)
    if filled:
        draw.rectangle((left, top + 20, left + filled - 1, top + 24), colour)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Break text at spaces into lines of at most `width` pixels."""
    lines, face = [""], font(size)
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and face.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
