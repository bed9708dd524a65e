"""docs/takuzu.py: a family outside the packages works in all commands in docs/extending.md."""

from __future__ import annotations

import json
import re
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import takuzu
from pages import page
from takuzu import Takuzu, random_puzzle, solutions
from training_runs import ROOT, in_process_command, metrics, run_python

import evaluate
import pretrain
import solve
from dataset import report
from dataset.families import check
from dataset.format import SPLITS, open_split

(BLOCK,) = [block for block in page("docs/extending.md").blocks("bash") if "takuzu" in block]
COMMANDS = BLOCK.replace("\\\n", "").splitlines()
TINY = [
    "arch.hidden_size=8",
    "arch.H_cycles=1",
    "arch.L_cycles=1",
    "arch.halt_max_steps=2",
    "arch.forward_dtype=float32",
    "device=cpu",
    "compile=false",
    "global_batch_size=8",
    "epochs=1",
    "eval_interval=1",
    "lr_warmup_steps=1",
]


def of_page(program: str) -> list[str]:
    """Return the arguments of a command in the page."""
    (line,) = [line for line in COMMANDS if line.startswith(f"python {program} ")]
    return shlex.split(line.removeprefix(f"python {program} "))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Create a folder for the commands of the page, with the dataset of the first one, but fewer puzzles."""
    assert COMMANDS[0] == "export PYTHONPATH=docs"
    path = tmp_path_factory.mktemp("takuzu")
    fewer = [*of_page("-m takuzu"), "--train", "24", "--test", "9"]
    done = run_python("-m", "takuzu", *fewer, cwd=path, PYTHONPATH=f"{ROOT}:{ROOT / 'docs'}")
    assert (done.returncode, done.stdout) == (0, "data/takuzu-6x6: 24 train and 9 test puzzles of 6x6\n"), (
        done.stderr
    )
    return path


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        assert in_process_command(patch, folder, *of_page("pretrain.py"), *TINY, entry=pretrain) == 0
    return folder


def test_the_report_shows_the_family_and_no_leakage(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert report.main(of_page("-m dataset.report")) == 0
    said = capsys.readouterr().out
    assert "train: takuzu@Takuzu, 6x6\n" in said
    assert "validation: no problems" in said
    assert re.search(r"inputs up to symmetry.* 0 ", said), said


def test_the_family_keeps_its_promises_on_the_dataset(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert check.main(of_page("-m dataset.families.check")) == 0
    assert re.search(r"units +kept", capsys.readouterr().out)


def test_training_measures_puzzles_solved_by_the_rules(trained):
    run = trained / "checkpoints" / "takuzu"
    assert {"takuzu/solved", "takuzu/exact"} <= metrics(run)[-1].keys()
    assert json.loads((run / "metadata.json").read_text())["family"] == "takuzu@Takuzu"


def test_symmetric_copies_vote_and_the_rules_check_them(trained, monkeypatch, capsys):
    assert (
        in_process_command(monkeypatch, trained, *of_page("evaluate.py"), "device=cpu", entry=evaluate) == 0
    )
    said = capsys.readouterr().out
    assert "symmetry" in said
    assert "with_checker" in said
    assert "takuzu/solved" in said


def test_the_puzzle_of_the_page_is_solved_step_by_step_and_drawn(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    solve.main([*of_page("solve.py"), "device=cpu"])
    said = capsys.readouterr().out
    assert "warning" not in said  # the answer is unique
    assert "solved" in said.splitlines()[-2]
    assert (trained / "takuzu.png").read_bytes().startswith(b"\x89PNG")


def test_a_puzzle_with_several_answers_gives_a_warning(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    solve.main(["checkpoint=checkpoints/takuzu", f"puzzle={'.' * 36}", "device=cpu"])
    assert "warning: the puzzle has several answers" in capsys.readouterr().out


# ------------------------------------------------------------------------------ rules, solver, generator


def by_rules(rows: list[str]) -> bool:
    """Check the rules directly."""
    lines = [*rows, *map("".join, zip(*rows, strict=True))]
    fine = all(line.count("0") == line.count("1") and not re.search("000|111", line) for line in lines)
    return fine and len(set(rows)) == len(rows) and len(set(lines[len(rows) :])) == len(rows)


def test_the_solver_finds_every_full_grid():
    # https://oeis.org/A253316
    assert [sum(1 for _ in solutions(["." * side] * side)) for side in (2, 4, 6)] == [2, 72, 4140]


def test_the_check_accepts_exactly_the_valid_grids():
    grids = ["".join(cells) for cells in product("01", repeat=16)]
    answers = np.array([[takuzu.SYMBOLS[c] for c in grid] for grid in grids], np.uint8)
    family = Takuzu.from_sizes(seq_len=16, vocab_size=4)
    right = {grid for grid in grids if by_rules([grid[row : row + 4] for row in range(0, 16, 4)])}
    accepted = family.check(np.ones_like(answers), answers)
    assert {grid for grid, fine in zip(grids, accepted, strict=True) if fine} == right
    assert {"".join(rows) for rows in solutions(["...."] * 4)} == right


@pytest.mark.parametrize("side", [4, 6])
def test_a_generated_puzzle_has_one_answer_and_no_redundant_cell(side):
    every = ["".join(rows) for rows in solutions(["." * side] * side)]

    def answers(puzzle: str) -> list[str]:
        return [grid for grid in every if all(p in (".", c) for p, c in zip(puzzle, grid, strict=True))]

    for seed in range(3):
        puzzle, answer = random_puzzle(np.random.default_rng(seed), side)
        assert answers(puzzle) == [answer]
        for cell in np.flatnonzero([c != "." for c in puzzle]).tolist():
            assert len(answers(puzzle[:cell] + "." + puzzle[cell + 1 :])) > 1


def test_datasets_are_determined_by_the_seed(tmp_path):
    def built(name: str, *options: str) -> list[bytes]:
        takuzu.main(
            ["--output-dir", str(tmp_path / name), "--size", "4", "--train", "8", "--test", "3", *options]
        )
        return [path.read_bytes() for path in sorted((tmp_path / name).rglob("*.npy"))]

    assert built("one") == built("two") != built("three", "--seed", "1")
    metadata = open_split(tmp_path / "one", "train").metadata
    assert metadata.extra["units"] == {"axes": [4, 4], "kinds": [[[1], [0]]]}


def test_all_puzzles_of_a_dataset_differ_up_to_symmetry(folder):
    sets = [open_split(folder / "data" / "takuzu-6x6", split).sets["all"] for split in SPLITS]
    family = Takuzu.from_sizes(seq_len=36, vocab_size=4)
    keys = [key for one in sets for key in family.symmetries.keys(one.inputs)]
    assert len(set(keys)) == len(keys) == 33


def test_requesting_more_puzzles_than_exist_is_an_error(tmp_path, capsys, monkeypatch):
    question, answer = Takuzu.from_sizes(seq_len=16, vocab_size=4).example(np.random.default_rng(0))
    monkeypatch.setattr(Takuzu, "example", lambda self, rng: (question, answer))
    with pytest.raises(SystemExit):
        takuzu.main(["--output-dir", str(tmp_path / "data"), "--size", "4", "--train", "2"])
    assert "found only 1 different puzzles of 4x4" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.npy"))
