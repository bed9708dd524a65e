#!/usr/bin/env bash
# pillow 12.3.0: a grid saved as palette indices in a GIF is read back with different indices, unless it is large.
#
# An ARC grid, a mask or a label map is naturally a palette image (mode "P"): its pixels are colour numbers. PNG keeps them.
# According to the GIF documentation, unused colours are dropped if the option optimize is given and true, so without it the
# indices should stay. But it is on by default for images smaller than 512x512 pixels: the picture looks the same, but
# np.asarray of the file numbers only the colours that occur, so that 9 becomes 3. A grid with all colours, or a large one,
# keeps its numbers, so a first test may pass. (A grey GIF, mode "L", is renumbered too, and np.asarray then has no greys.)
#
# Affected: grids or masks stored as small GIFs and read back as indices: labels change silently.
# Workaround: save(..., optimize=False), or PNG; or map colours back with getpalette().
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pillow==12.3.0
cat > "$work/program.py" <<'PROGRAM'
from pathlib import Path

from PIL import Image

folder = Path(__file__).parent
palette = [value for colour in range(10) for value in (25 * colour, 255 - 25 * colour, colour)]


def saved(values, size, name, **options):
    image = Image.new("P", size)
    image.putdata(values)
    image.putpalette(palette)
    image.save(folder / name, **options)
    with Image.open(folder / name) as read:
        same_colours = read.convert("RGB").tobytes() == image.convert("RGB").tobytes()
        return f"{sorted(set(read.tobytes()))}, colours {'as before' if same_colours else 'changed'}"


few = [0, 2, 9, 5]
print("2x2, PNG:", saved(few, (2, 2), "a.png"))
print("2x2, GIF:", saved(few, (2, 2), "a.gif"))
print("2x2, GIF, optimize=False:", saved(few, (2, 2), "b.gif", optimize=False))
print("5x2 with all colours, GIF:", saved(range(10), (5, 2), "c.gif"))
print("600x600, GIF:", saved(few * 90_000, (600, 600), "d.gif"))
PROGRAM
found=$("$work/venv/bin/python" -W ignore "$work/program.py")
expected=$(cat <<'TEXT'
2x2, PNG: [0, 2, 5, 9], colours as before
2x2, GIF: [0, 1, 2, 3], colours as before
2x2, GIF, optimize=False: [0, 2, 5, 9], colours as before
5x2 with all colours, GIF: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], colours as before
600x600, GIF: [0, 2, 5, 9], colours as before
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
