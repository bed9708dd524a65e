#!/usr/bin/env bash
# omegaconf 2.3.1 with hydra-core 1.3.8 and pyyaml 6.0.3: ids of ARC tasks become numbers, and different tasks become one.
#
# An ARC task is named by eight hexadecimal digits. Of the 1,147 ids of ARC-AGI-1 and 2, eleven are digits with one "e"
# among them: OmegaConf's YAML loader takes those for floats, and five of them overflow to inf, so that they are equal to
# each other. 00576224 is taken for an octal number. One would expect text: PyYAML, whose loader OmegaConf extends, reads
# 25e02866 as text, and writes it without quotes for that reason, so that a file written by yaml.safe_dump changes when
# OmegaConf loads it. A structured config does not help: the field typed `str` gets the number's text, "inf". Hydra's
# command line disagrees once more: there 00576224 stays text and 25e02866 is inf. The same happens to short hashes of
# git commits and to run names. (hydra issue 2599 and omegaconf issue 296 and 341 have the float; none has the rest.)
#
# Hurt: who selects or excludes tasks by id in a config, a sweep or a saved list; nothing is raised.
# Guard: quote ids in YAML ('25e02866'), and on the command line as well ("task='25e02866'"); compare with the known ids.
#
# Fails if the output is not the expected one.
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
