"""Write a PNG with captioned pictures in rows."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from utils.errors import UserError
from utils.files import replacing

_MARGIN, _CAPTION, _WIDTH = 8, 16, 1600  # pixels


def write_sheet(path: Path, sections: list[list[tuple[str, list[Image.Image]]]]) -> None:
    """Draw sections of (caption, pictures shown side by side) to `path`; each section starts on a new line.

    Raises UserError, naming --png, if the file cannot be written.
    """
    lines = []
    for section in sections:
        cards = [_card(caption, pictures) for caption, pictures in section]
        per_line = max(1, min(4, _WIDTH // max(card.width for card in cards)))
        lines += [_beside(cards[i : i + per_line]) for i in range(0, len(cards), per_line)]
    sheet = _canvas(max(line.width for line in lines), sum(line.height for line in lines))
    top = 0
    for line in lines:
        sheet.paste(line, (0, top))
        top += line.height
    try:
        with replacing(path) as temporary:
            sheet.save(temporary, "PNG", optimize=True)
    except OSError as error:
        raise UserError(f"--png {path} cannot be written: {error.strerror}") from None


def _card(caption: str, panels: list[Image.Image]) -> Image.Image:
    """Draw panels side by side under a caption."""
    font = ImageFont.load_default(12)
    body = _beside(panels)
    card = _canvas(max(body.width, round(font.getlength(caption)) + 2 * _MARGIN), body.height + _CAPTION)
    ImageDraw.Draw(card).text((_MARGIN, 4), caption, "black", font)
    card.paste(body, (0, _CAPTION))
    return card


def _beside(pictures: list[Image.Image]) -> Image.Image:
    """Draw pictures in a row, with a margin around each."""
    width = sum(picture.width + 2 * _MARGIN for picture in pictures)
    row = _canvas(width, max(picture.height for picture in pictures) + 2 * _MARGIN)
    left = _MARGIN
    for picture in pictures:
        row.paste(picture, (left, _MARGIN))
        left += picture.width + 2 * _MARGIN
    return row


def _canvas(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (250, 250, 250))
