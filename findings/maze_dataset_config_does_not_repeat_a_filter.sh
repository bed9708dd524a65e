#!/usr/bin/env bash
# maze-dataset 1.4.2 with muutils 0.8.12: the config of a filtered dataset generates a different dataset.
#
# A MazeDatasetConfig describes a dataset completely: generator, size, number, seed and applied filters. It is saved with the
# dataset, so that a paper only needs to publish the config. Filtering adds the filter to the config of the result, and also
# sets n_mazes there to the number that passed. Generating from that config draws this smaller number and filters again: of
# 24 long mazes 15 remain, all of them among the 24, and their config in turn gives 9. Without filters a config reproduces
# its dataset, so nothing looks wrong.
#
# Affected: users who store only the config of a filtered dataset, or try to reproduce a published one from its config.
# Workaround: store the mazes; or keep the config from before the filter, and filter after MazeDataset.from_config.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q maze-dataset==1.4.2 muutils==0.8.12
cat > "$work/program.py" <<'PROGRAM'
from maze_dataset import MazeDataset, MazeDatasetConfig
from maze_dataset.generation import LatticeMazeGenerators


def made(config):
    return MazeDataset.from_config(config, load_local=False, save_local=False, do_download=False)


def mazes(dataset):
    return [maze.as_ascii() for maze in dataset]


config = MazeDatasetConfig(name="any", grid_n=5, n_mazes=40, maze_ctor=LatticeMazeGenerators.gen_dfs, seed=1)
everything = made(config)
print("without a filter:", len(everything), "mazes, again the same", mazes(everything) == mazes(made(everything.cfg)))
long = everything.filter_by.path_length(min_length=8)
for _ in range(3):
    filters = [one["name"] for one in long.cfg.applied_filters]
    again = made(long.cfg)
    part = set(mazes(again)) <= set(mazes(long))
    print(f"{len(long)} mazes of filters {filters}, n_mazes {long.cfg.n_mazes}: makes {len(again)}, part of them {part}")
    long = again
PROGRAM
found=$(cd "$work" && venv/bin/python -W ignore program.py)
expected=$(cat <<'TEXT'
without a filter: 40 mazes, again the same True
24 mazes of filters ['path_length'], n_mazes 24: makes 15, part of them True
15 mazes of filters ['path_length'], n_mazes 15: makes 9, part of them True
9 mazes of filters ['path_length'], n_mazes 9: makes 5, part of them True
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
