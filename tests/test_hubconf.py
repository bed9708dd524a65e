"""`torch.hub.load(..., source="local")` from a program in another folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_shipped_weights import HARD
from training_runs import ROOT, run_python

# The program hides nothing of the repository, and has nothing of it on its import path.
SOLVE = f"""
import torch

model = torch.hub.load({str(ROOT)!r}, "trm", "sudoku_extreme_cpu", source="local")
puzzle = {HARD!r}
tokens = torch.tensor([[1 if cell == "." else int(cell) + 1 for cell in puzzle]])
batch = {{
    "inputs": tokens,
    "labels": torch.zeros_like(tokens),
    "puzzle_identifiers": torch.zeros(1, dtype=torch.int32),
}}
with torch.no_grad():
    carry = model.initial_carry(batch)
    for _ in range(16):
        carry, _, _, outputs = model(carry, batch)
answer = [int(token) - 1 for token in outputs["preds"][0]]
rows = [set(answer[start : start + 9]) for start in range(0, 81, 9)]
print(model.training, all(row == set(range(1, 10)) for row in rows))
"""
UNTRAINED = f"""
import torch

load = lambda *args, **settings: torch.hub.load({str(ROOT)!r}, *args, source="local", **settings)
small = load("untrained", "hrm", hidden_size=32, num_heads=2, seq_len=16, vocab_size=6)
large = load("untrained")
print(type(small.architecture).__name__, small.training, sum(p.numel() for p in large.parameters()))
wrong = [lambda: load("untrained", "trn"), lambda: load("untrained", hidden=3), lambda: load("trm", "nowhere")]
for each in wrong:
    try:
        each()
    except ValueError as error:
        print(str(error).replace("\\n", " "))
"""


def run(folder: Path, program: str) -> str:
    (folder / "program.py").write_text(program)
    done = run_python("program.py", cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_checkout_gives_a_trained_model_that_solves_a_puzzle(tmp_path):
    assert run(tmp_path, SOLVE) == "False True\n"


def test_a_checkout_gives_untrained_models_and_names_what_is_wrong(tmp_path):
    built, *errors = run(tmp_path, UNTRAINED).splitlines()
    assert built == "HRM True 6828034"
    assert len(errors) == 3
    assert errors[0].startswith("arch='trn': choose from hrm, ")
    assert errors[1] == "arch.hidden: unknown key"
    assert errors[2].startswith("nowhere: ")
    included = sorted(path.name for path in (ROOT / "pretrained").iterdir() if path.is_dir())
    assert f"included weights: {', '.join(included)}" in errors[2]


@pytest.mark.parametrize("name", ["utils", "models"])
def test_a_module_of_the_program_that_hides_ours_is_named(tmp_path, name):
    (tmp_path / f"{name}.py").write_text("")
    program = f"import {name}\n{SOLVE}"
    (tmp_path / "program.py").write_text(program)
    done = run_python("program.py", cwd=tmp_path, timeout=300)
    assert done.returncode == 1
    assert f"ImportError: the program has imported another module named '{name}'" in done.stderr
