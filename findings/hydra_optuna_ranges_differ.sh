#!/usr/bin/env bash
# hydra-optuna-sweeper 1.3.0 with hydra-core 1.3.8 and optuna 2.10.1: a range means different values for each sampler.
#
# Since Hydra 1.2 the search space of the Optuna sweeper uses the grammar of overrides (hydra.sweeper.params; see the upgrade
# notes from 1.1), in which range(start, stop, step) excludes its stop, as in Python. Expected: the same values for all
# sweepers and samplers. Actual: the basic sweeper of Hydra excludes the stop; the samplers of Optuna include it, because it
# becomes the upper bound of a distribution; and the grid sampler excludes it, but also drops the last value of a range of
# floats if a division is rounded down (0.3 // 0.1 is 2), so that 0.2 is never tried. There is no message.
#
# Affected: searches over range(1,4) of cycles or layers, where 4 may need twice the memory, and grids assumed complete.
# Workaround: choice(0.0,0.1,0.2), which all three interpret in the same way; count the trials.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q hydra-core==1.3.8 hydra-optuna-sweeper==1.3.0 optuna==2.10.1
cat > "$work/program.py" <<'PROGRAM'
from pathlib import Path

import hydra


@hydra.main(version_base="1.3", config_path=None)
def main(config):
    with Path(__file__).with_name("tried").open("a") as file:
        print(config.x, file=file)
    return float(config.x)


main()
PROGRAM
sweep() {
  rm -f "$work/tried"
  cd "$work"
  venv/bin/python -W ignore program.py --multirun "${@:2}" hydra.sweep.dir=runs > log 2>&1 || { cat log; return 1; }
  echo "$1: $(sort -u "$work/tried" | xargs)"
}
optuna=(hydra/sweeper=optuna hydra.sweeper.n_jobs=1 hydra.sweeper.n_trials=20)
random=("${optuna[@]}" hydra/sweeper/sampler=random hydra.sweeper.sampler.seed=1)
grid=("${optuna[@]}" hydra/sweeper/sampler=grid)
found=$(
  for range in 'range(1,4)' 'range(0,0.3,step=0.1)' 'choice(0.0,0.1,0.2)'; do
    sweep "$range, basic" "+x=$range"
    sweep "$range, random" "+x=$range" "${random[@]}"
    sweep "$range, grid" "+x=$range" "${grid[@]}"
  done
)
expected=$(cat <<'TEXT'
range(1,4), basic: 1 2 3
range(1,4), random: 1 2 3 4
range(1,4), grid: 1 2 3
range(0,0.3,step=0.1), basic: 0.0 0.1 0.2
range(0,0.3,step=0.1), random: 0.0 0.1 0.2 0.3
range(0,0.3,step=0.1), grid: 0.0 0.1
choice(0.0,0.1,0.2), basic: 0.0 0.1 0.2
choice(0.0,0.1,0.2), random: 0.0 0.1 0.2
choice(0.0,0.1,0.2), grid: 0.0 0.1 0.2
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
