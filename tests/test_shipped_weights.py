"""Weights in pretrained/: they load and solve a hard puzzle, and their card documents knowledge and scores."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(path for path in (ROOT / "pretrained").iterdir() if path.is_dir())
# From the test rows of Sudoku-Extreme.
HARD = "4..9..58......6..7...8...46...6....8.....5.9.13.4.8....4.7.9.6..8.....5..9.5..7.4"


def test_a_hard_sudoku_is_solved_from_a_fresh_checkout():
    command = [
        sys.executable,
        "solve.py",
        "checkpoint=pretrained/sudoku_extreme_cpu",
        f"puzzle={HARD}",
        "device=cpu",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("solved in "), done.stdout[-500:]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_weights_alone_solve_their_first_sample(folder, tmp_path):
    command = [sys.executable, str(ROOT / "solve.py"), f"checkpoint={folder}", "device=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()
    assert any(line.startswith(f"test puzzle 0 of {folder / 'puzzles.csv'}") for line in first), first[:3]
    assert re.match(r"solved in \d+ steps: valid.*, and equal to the answer", first[-1])


def test_samples_are_chosen_by_number(tmp_path):
    folder = ROOT / "pretrained" / "maze_hard_cpu"
    command = [sys.executable, str(ROOT / "solve.py"), f"checkpoint={folder}", "device=cpu", "steps=1"]
    done = subprocess.run([*command, "index=11"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"test puzzle 11 of {folder / 'puzzles.csv'} (0 to 11)" in done.stdout
    done = subprocess.run([*command, "index=12"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "index=12" in done.stderr
    assert "0 to 11" in done.stderr


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_card_documents_knowledge_and_contains_no_path(folder):
    card = (folder / "README.md").read_text()
    assert "| built-in knowledge of the rules |" in card
    assert "| FLOP of training |" in card
    for name in ("README.md", "config.json"):
        words = re.split(r"[\s\"'`(),]+", (folder / name).read_text())
        assert [word for word in words if word.startswith(("/", "~"))] == [], name
    assert (folder / "model.safetensors").stat().st_size < 2 * 2**20
