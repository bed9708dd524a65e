#!/usr/bin/env bash
# reasoning-gym 0.1.25: the next seed gives the same dataset shifted by one row; the endless dataset repeats itself.
#
# A dataset of puzzles is created by create_dataset(name, size=, seed=). Expected: two seeds give independent draws, so that
# train and test, or the runs of a study, can use the seeds 42 and 43. Actual: row i is drawn from a generator with seed
# seed + i, so that row i of seed 43 is row i + 1 of seed 42, and two datasets of 1,000 rows share 999. The package itself is
# affected: ReseedingDataset, documented to make a dataset infinite by reseeding at its end, increments the seed for each
# chunk, so that of 1,000 rows in chunks of 50 only 69 are different.
#
# Affected: splits by adjacent seeds (nearly all of test is in train), averages over seeds 0 to 4 (a single run, effectively)
# and training on the endless dataset (one new row per chunk).
# Workaround: seeds that differ by more than the size of any dataset; one large size instead of ReseedingDataset, because
# rows are generated on demand; compare the questions of train and test.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q reasoning-gym==0.1.25
cat > "$work/program.py" <<'PROGRAM'
from itertools import islice

from reasoning_gym import create_dataset
from reasoning_gym.dataset import ReseedingDataset

SIZE = 50
for name in ("mini_sudoku", "maze", "n_queens", "futoshiki", "arc_1d"):
    rows = {seed: [row["question"] for row in create_dataset(name, size=SIZE, seed=seed)] for seed in (42, 43, 42 + SIZE)}
    moved = rows[42][1:] == rows[43][:-1]
    far = len(set(rows[42]) & set(rows[42 + SIZE]))
    print(f"{name}: seed 43 is seed 42 moved by a row {moved}; seed {42 + SIZE} shares {far} of {SIZE}")
endless = ReseedingDataset(create_dataset("mini_sudoku", size=SIZE, seed=42), chunk_size=SIZE)
print("1000 rows of the endless mini_sudoku, different ones:", len({row["question"] for row in islice(endless, 1000)}))
PROGRAM
found=$("$work/venv/bin/python" -W ignore "$work/program.py")
expected=$(cat <<'TEXT'
mini_sudoku: seed 43 is seed 42 moved by a row True; seed 92 shares 0 of 50
maze: seed 43 is seed 42 moved by a row True; seed 92 shares 0 of 50
n_queens: seed 43 is seed 42 moved by a row True; seed 92 shares 0 of 50
futoshiki: seed 43 is seed 42 moved by a row True; seed 92 shares 0 of 50
arc_1d: seed 43 is seed 42 moved by a row True; seed 92 shares 0 of 50
1000 rows of the endless mini_sudoku, different ones: 69
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
