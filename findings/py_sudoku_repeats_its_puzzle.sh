#!/usr/bin/env bash
# py-sudoku 2.0.0: without a seed a process generates the same puzzle repeatedly, and each one resets Python's `random`.
#
# According to the documentation of the constructor, the seed is random by default. It is drawn once, when the module is
# imported, because it is a default value in the signature. So Sudoku(3).difficulty(0.5), the first example of the README,
# gives the same puzzle in each iteration of a loop, with the same empty cells: the constructor seeds the global generator of
# Python, from which difficulty() then draws. For the same reason, a program's own draws from `random` repeat after each
# puzzle, with or without a seed. (The open pull request 17 of jeffsieu/py-sudoku reports the first half.)
#
# Affected: datasets generated in a loop: all rows are copies of one puzzle, also across the train and test splits.
# Workaround: pass a different seed= each time, from your own random.Random; count the distinct puzzles.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q py-sudoku==2.0.0
cat > "$work/program.py" <<'PROGRAM'
import random

from sudoku import Sudoku

puzzles = [Sudoku(3).difficulty(0.5) for _ in range(20)]
print("20 puzzles, different ones:", len({str(puzzle.board) for puzzle in puzzles}))
seeded = [Sudoku(3, seed=seed).difficulty(0.5) for seed in range(20)]
print("20 puzzles with a seed each, different ones:", len({str(puzzle.board) for puzzle in seeded}))

drawn = []
for _ in range(3):
    Sudoku(3, seed=7)
    drawn.append(random.randrange(1000))
print("three draws of the program's own after three puzzles, different ones:", len(set(drawn)))
PROGRAM
found=$("$work/venv/bin/python" "$work/program.py")
expected=$(cat <<'TEXT'
20 puzzles, different ones: 1
20 puzzles with a seed each, different ones: 20
three draws of the program's own after three puzzles, different ones: 1
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
