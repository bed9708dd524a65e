"""PNG pictures from pixel arrays, and a 3x5 font for captions, so that drawing needs no further package."""

from __future__ import annotations

import struct
import zlib

import numpy as np

# Five rows of three pixels for each character, as octal digits from the top.
_GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757",
    "7": "71111", "8": "75757", "9": "75717", "A": "25755", "B": "65656", "C": "34443", "D": "65556",
    "E": "74647", "F": "74644", "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655",
    "L": "44447", "M": "57755", "N": "57775", "O": "25552", "P": "65644", "Q": "25573", "R": "65655",
    "S": "34216", "T": "72222", "U": "55557", "V": "55552", "W": "55775", "X": "55255", "Y": "55222",
    "Z": "71247", "-": "00700", "_": "00007", ".": "00002", "/": "11244", " ": "00000",
}  # fmt: skip
GLYPH_HEIGHT, GLYPH_WIDTH = 5, 3


def encode_png(pixels: np.ndarray) -> bytes:
    """The file content of a picture of (height, width, 3) uint8 pixels."""
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits per channel, RGB, not interlaced
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # every line begins with its filter, 0 for none
    lines[:, 1:] = pixels.reshape(height, -1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def text_width(text: str, scale: int = 2) -> int:
    """Pixels that `draw_text` needs in width."""
    return max(0, len(text) * (GLYPH_WIDTH + 1) - 1) * scale


def draw_text(pixels: np.ndarray, text: str, rgb: np.ndarray, scale: int = 2) -> None:
    """Write text into the top left corner of (height, width, 3) pixels, in place; what does not fit is cut off."""
    for position, character in enumerate(text.upper()):
        rows = _GLYPHS.get(character, "77777")
        glyph = np.array([[int(row) >> 2 & 1, int(row) >> 1 & 1, int(row) & 1] for row in rows], bool)
        glyph = glyph.repeat(scale, axis=0).repeat(scale, axis=1)
        left = position * (GLYPH_WIDTH + 1) * scale
        place = pixels[: glyph.shape[0], left : left + glyph.shape[1]]
        place[glyph[: place.shape[0], : place.shape[1]]] = rgb
