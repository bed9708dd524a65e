#!/usr/bin/env bash
# omegaconf 2.3.1 with hydra-core 1.3.8 and pyyaml 6.0.3: ids of ARC tasks are read as numbers, and different ids as equal.
#
# ARC tasks are named by eight hexadecimal digits. Of the 1,147 ids in ARC-AGI-1 and 2, eleven consist of digits and one "e".
# The YAML loader of OmegaConf reads them as floats, and five of them overflow to inf and become equal. 00576224 is read as
# an octal number. Expected: text. PyYAML, whose loader OmegaConf extends, reads 25e02866 as text and therefore writes it
# without quotes, so that a file written by yaml.safe_dump changes when OmegaConf loads it. A structured config does not help:
# a field of type `str` gets the text of the number, "inf". The command line of Hydra differs again: there 00576224 stays
# text and 25e02866 is inf. Short hashes of git commits and run names are affected, too. (hydra issue 2599 and omegaconf
# issues 296 and 341 report the float, but not the rest.)
#
# Affected: selecting or excluding tasks by id in a config, a sweep or a saved list; there is no error.
# Workaround: quote ids in YAML ('25e02866') and on the command line ("task='25e02866'"); compare with the known ids.
#
# Exits with an error if the output differs from the expected one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q hydra-core==1.3.8 omegaconf==2.3.1 pyyaml==6.0.3
cat > "$work/program.py" <<'PROGRAM'
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf


@dataclass
class Typed:
    task: str = ""


folder = Path(__file__).parent
for task in ("00576224", "25e02866", "278e5215"):
    written = folder / "config.yaml"
    written.write_text(f"task: {task}\n")
    by_pyyaml = yaml.safe_load(written.read_text())["task"]
    by_omegaconf = OmegaConf.load(written)
    typed = OmegaConf.merge(OmegaConf.structured(Typed), by_omegaconf)
    with initialize_config_dir(str(folder), version_base="1.3"):
        typed_in = compose("config", overrides=[f"task={task}"]).task
    print(f"{task}: PyYAML {by_pyyaml!r}, OmegaConf {by_omegaconf.task!r}, as str {typed.task!r}, override {typed_in!r}")

dumped = folder / "dumped.yaml"
dumped.write_text(yaml.safe_dump({"train": "25e02866", "test": "278e5215"}, sort_keys=False))
print(dumped.read_text(), end="")
loaded = OmegaConf.load(dumped)
print("one task in train and test:", loaded.train == loaded.test)
PROGRAM
found=$("$work/venv/bin/python" "$work/program.py")
expected=$(cat <<'TEXT'
00576224: PyYAML 195732, OmegaConf 195732, as str '195732', override '00576224'
25e02866: PyYAML '25e02866', OmegaConf inf, as str 'inf', override inf
278e5215: PyYAML '278e5215', OmegaConf inf, as str 'inf', override inf
train: 25e02866
test: 278e5215
one task in train and test: True
TEXT
)
echo "$found"
diff <(echo "$expected") <(echo "$found")
