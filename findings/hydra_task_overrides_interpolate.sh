#!/usr/bin/env bash
# hydra-core 1.3.8 with omegaconf 2.3.1: recorded overrides differ from the command line if one refers to a key.
#
# HydraConfig.get().overrides.task stores the command line as strings, for logs or checks of a program. It is an OmegaConf
# list, so reading the entry "+lr=${base}" gives "+lr=3", with the value filled in. An entry that refers to a missing key
# cannot be read at all: listing the overrides then raises InterpolationKeyError, even for the entries before and after it.
# OmegaConf.to_container(..., resolve=False) returns the original text.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q hydra-core==1.3.8 omegaconf==2.3.1
cat > "$work/program.py" <<'PROGRAM'
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError


@hydra.main(version_base="1.3", config_path=None)
def main(config):
    recorded = HydraConfig.get().overrides.task
    try:
        print("read:", list(recorded))
    except InterpolationKeyError as error:
        print("read:", type(error).__name__, str(error).splitlines()[0])
    print("unresolved:", OmegaConf.to_container(recorded, resolve=False))


main()
PROGRAM
run() { (cd "$work" && venv/bin/python program.py "$@" hydra.run.dir=. hydra.output_subdir=null); }
found=$(run +base=3 '+lr=${base}'; run +base=3 '+lr=${bass}')
expected=$(cat <<'TEXT'
read: ['+base=3', '+lr=3']
unresolved: ['+base=3', '+lr=${base}']
read: InterpolationKeyError Interpolation key 'bass' not found
unresolved: ['+base=3', '+lr=${bass}']
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
