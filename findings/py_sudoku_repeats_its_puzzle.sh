#!/usr/bin/env bash
# py-sudoku 2.0.0: without a seed a process makes the same puzzle again and again, and each rewinds Python's `random`.
#
# The constructor's documentation says that the seed defaults to a random one. It is drawn once, when the module is
# imported, because it stands as default value in the signature. So Sudoku(3).difficulty(0.5), the README's first example,
# gives in a loop the same puzzle each time, with the same empty cells: the constructor seeds Python's global generator,
# from which difficulty() then draws. For the same reason, what a program itself draws from `random` after making a
# puzzle repeats, with a seed as without. (The open pull request 17 of jeffsieu/py-sudoku tells of the first half.)
#
# Hurt: who makes a dataset by a loop: all rows are copies of one, also across the split into train and test.
# Guard: pass seed=, each time another, from a random.Random of your own; count the distinct puzzles.
#
# Fails if the output is not the expected one.
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
