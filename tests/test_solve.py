"""The command `solve.py`: a puzzle from text or from the test data, arguments, and errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripted_solver import ANSWER, PUZZLE, RELABELLED
from trained_folders import TINY_ARCH, randomised, write_run

import solve
from config.solve_schema import SolveConfig
from dataset.families.sudoku.rules import BoxShape, parse_grid, to_tokens
from dataset.format import SplitWriter, write_identifiers
from utils.command_line.arguments import read_arguments
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
SIZES_4 = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "solve.py"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"} | environment,
    )


def printed(capsys, *arguments: str) -> list[str]:
    """Run the command in this process and return the lines that it prints."""
    capsys.readouterr()
    solve.main(["device=cpu", *arguments])
    return capsys.readouterr().out.splitlines()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """Train on the puzzle above until it is memorised; the test data also has a relabelled one."""
    root = tmp_path_factory.mktemp("trained")
    rows = {"train": [(PUZZLE, ANSWER)]}
    rows["test"] = [*rows["train"], (PUZZLE.translate(RELABELLED), ANSWER.translate(RELABELLED))]
    for split, pairs in rows.items():
        lines = ["source,question,answer,rating", *(f"t,{question},{answer}," for question, answer in pairs)]
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    settings = {
        "arch": "trm",
        "data_paths": f"[{root / 'data'}]",
        "checkpoint_path": root / "run",
        "epochs": 2000,
        "eval_interval": 2000,
        "global_batch_size": 8,
        "lr": 2e-3,
        "lr_warmup_steps": 0,
        "weight_decay": 0,
        "log_interval": 100,
        "device": "cpu",
        "evaluators": "[]",
        "arch.hidden_size": 32,
        "arch.num_heads": 2,
        "arch.H_cycles": 1,
        "arch.L_cycles": 2,
        "arch.L_layers": 1,
        "arch.halt_max_steps": 4,
        "arch.puzzle_emb_ndim": 0,
        "arch.forward_dtype": "float32",
    }
    build = ["dataset/build_sudoku_dataset.py", "--source-csv", root, "--output-dir", root / "data"]
    train = ["pretrain.py", *(f"{key}={value}" for key, value in settings.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_DISABLED": "true", "DISABLE_COMPILE": "1"}
    for step in ([*build, "--workers", "1"], train):
        subprocess.run([sys.executable, *map(str, step)], cwd=ROOT, env=environment, check=True)
    return root / "run"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """Create a run with random weights whose data is not on this machine."""
    metadata = SIZES_4 | {"family": "sudoku", "grid_shape": [4, 4], "box_shape": [2, 2]}
    folder = tmp_path_factory.mktemp("untrained") / "run"
    return write_run(folder, randomised(sizes=SIZES_4), metadata=metadata, data_paths=["not/here"])


# ------------------------------------------------------------------------------ the command, as users call it


def test_a_learned_test_puzzle_is_solved_and_equals_the_answer(trained):
    done = command(f"checkpoint={trained}", "index=0")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"solved in \d steps?: valid, and equal to the answer", lines[-1])
    assert "says stop first at step" in lines[-2]
    assert any(line.startswith("puzzle ") and "step 1: " in line for line in lines)
    assert "1 2 | . ." in done.stdout  # the puzzle
    assert "1 2 | 4*3*" in done.stdout  # with filled cells
    assert "\x1b" not in done.stdout
    assert max(map(len, lines[3:])) <= 80


def test_the_same_puzzle_as_text_that_looks_like_a_number_is_solved(trained, capsys):
    for text in (
        "1200340000300302",
        "12.0340000300302",
        PUZZLE,
        "12..\n34..\n..3.\n.3.2",
        "12..|34../..3.|.3.2",
    ):
        last = printed(capsys, f"checkpoint={trained}", f"puzzle={text}")[-1]
        assert re.fullmatch(r"solved in \d steps?: valid", last), text


def test_an_unsolved_puzzle_shows_the_answer_and_exits_with_0(trained, capsys):
    lines = printed(capsys, f"checkpoint={trained}", "index=1")
    assert lines[-1].startswith("not solved: ")
    assert "broken" in lines[-1]
    assert re.search(r"\d+ of 16 cells as in the answer", lines[-1])
    assert any("answer in the dataset" in line for line in lines)


def test_by_default_seed_zero_draws_the_puzzle(trained, capsys):
    drawn = printed(capsys, f"checkpoint={trained}")
    assert drawn == printed(capsys, f"checkpoint={trained}", "seed=0")
    names = {printed(capsys, f"checkpoint={trained}", f"seed={seed}")[1] for seed in range(8)}
    assert len(names) == 2
    assert all(re.fullmatch(r"test puzzle [01] of .*data \(0 to 1\)", name) for name in names)


def test_other_data_can_be_given_and_datasets_are_numbered_consecutively(trained, tmp_path, capsys):
    data = trained.parent / "data"
    other = tmp_path / "other"
    tokens = to_tokens(np.stack([parse_grid(text, BoxShape(2, 2)) for text in (PUZZLE, ANSWER)]))
    for split in ("train", "test"):
        with SplitWriter(other / split, seq_len=16, vocab_size=6, extra={"family": "sudoku"}) as writer:
            writer.add_group(tokens[:1], tokens[1:], np.zeros(1, np.int32))
            writer.close(1)
    write_identifiers(other, ["<blank>"])
    lines = printed(capsys, f"checkpoint={trained}", f"data_paths_test=[{data},{other}]", "index=2")
    assert lines[1].endswith(f"{data}, {other} (0 to 2)")
    assert lines[-1].endswith("equal to the answer")


def test_a_user_error_gives_one_message_and_exit_status_two(untrained):
    done = command(f"checkpoint={untrained}", "puzle=12")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "puzle: unknown key; nearest valid keys: puzzle" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_closed_pipe_ends_the_command_quietly(untrained):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "solve.py"), "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert errors == b""


# ------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    "text",
    ["12.3000", "000123", "1e10", "1_000", "true", "[1,2]", "0x1F", "a=b", " 1 2 ", "1,2", "~"],
)
def test_a_puzzle_is_always_text(text):
    assert read_arguments(["checkpoint=x", f"puzzle={text}"], SolveConfig).puzzle == text


def test_quotes_and_plus_signs_are_stripped_from_values():
    config = read_arguments(["+checkpoint='x y'", '++puzzle="12.3"', "steps=5"], SolveConfig)
    assert (config.checkpoint, config.puzzle, config.steps) == ("x y", "12.3", 5)


@pytest.mark.parametrize("text", ["[a,b]", "[ 'a' , \"b\" ]", "a,b"])
def test_data_paths_are_parsed_as_a_list(text):
    assert read_arguments(["checkpoint=x", f"data_paths_test={text}"], SolveConfig).data_paths_test == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint: None is not valid: name the folder of a run"),
        (
            ["checkpoint=x", "12.3"],
            "'12.3' is not of the form key=value; keys are checkpoint, family, puzzle",
        ),
        (["checkpoint=x", "=3"], "'=3' is not of the form"),
        (["checkpoint=x", "steps=1", "steps=2"], "steps= is given twice"),
        (["checkpoint=x", "steps=0"], "steps: '0' is not valid"),
        (["checkpoint=x", "steps=many"], "steps: 'many' is not valid"),
        (["checkpoint=x", "index=-1"], "index: '-1' is not valid"),
        (
            ["checkpoint=x", "halt_max_steps=3"],
            "halt_max_steps: unknown key; nearest valid keys: data_paths_test, steps",
        ),
        (["checkpoint=x", "device=tpu"], "device: 'tpu' is not valid"),
        (["checkpoint=x", "data_paths_test=[]"], "data_paths_test: "),
        (["checkpoint=x", "puzzle=1", "index=1"], "puzzle= gives the puzzle and index= chooses one"),
        (["checkpoint=x", "puzzle=1", "seed=1"], "puzzle= gives the puzzle and seed= chooses one"),
        (["checkpoint=x", "puzzle=1", "data_paths_test=a"], "and data_paths_test= chooses one"),
        (["checkpoint=x", "index=1", "seed=1"], "index= chooses a puzzle and seed= draws one"),
        (["checkpoint=x", "seq_len=16"], "seq_len= is used with puzzle= and puzzles= only"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_arguments(arguments, SolveConfig)


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit) as end:
        solve.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for key in SolveConfig.model_fields:
        assert re.search(rf"^  {key} +\w", text, re.MULTILINE), key


# ------------------------------------------------------------------------------ checkpoints and data


def test_a_puzzle_as_text_needs_no_data(untrained, capsys):
    lines = printed(capsys, f"checkpoint={untrained / 'step_10'}", f"puzzle={PUZZLE}", "steps=6")
    assert lines[0].endswith("step_10: TRM on cpu, 6 steps, trained with 4")
    assert lines[1] == "your puzzle"
    assert lines[-1].startswith(("solved", "not solved"))
    assert "answer" not in lines[-1]


def test_a_published_checkpoint_without_metadata_needs_the_number_of_cells(tmp_path, capsys):
    run = write_run(tmp_path / "run", randomised(sizes=SIZES_4))
    with pytest.raises(UserError, match="seq_len="):
        printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}")
    lines = printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}", "seq_len=16")
    assert "taken for sudoku: its training data is known only by its sizes, 16 cells and 6 tokens" in lines[1]
    assert lines[2] == "your puzzle"


def test_a_model_with_identifiers_reports_that_it_gets_the_blank_one(tmp_path, capsys):
    sizes = SIZES_4 | {"num_puzzle_identifiers": 3}
    run = write_run(tmp_path / "run", randomised(sizes=sizes), metadata=sizes | {"family": "sudoku"})
    assert any(
        "gets the blank one" in line for line in printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"(?s)not/here.*data_paths_test=\[DIR\].*puzzle="),
        (["data_paths_test=[nor/here]"], "nor/here"),
        (["puzzle=12.3"], r"puzzle= has 4 cells, but this model solves 4x4 Sudoku with 16 cells"),
    ],
)
def test_missing_arguments_are_reported(untrained, arguments, message):
    with pytest.raises(UserError, match=message):
        solve.main([f"checkpoint={untrained}", *arguments])


def test_a_missing_checkpoint_is_reported():
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        solve.main(["checkpoint=nowhere", f"puzzle={PUZZLE}"])


def test_an_index_out_of_range_is_rejected_with_the_range(trained):
    with pytest.raises(UserError, match=r"index=2: .* has 2 test puzzles, 0 to 1"):
        solve.main([f"checkpoint={trained}", "index=2"])


def test_data_of_a_different_size_is_rejected(untrained, tmp_path):
    for split in ("train", "test"):
        with SplitWriter(tmp_path / split, seq_len=36, vocab_size=8) as writer:
            writer.add_group(np.ones((1, 36), int), np.ones((1, 36), int), np.zeros(1, np.int32))
            writer.close(1)
    with pytest.raises(UserError, match="seq_len: 16 in the weights, 36 in the data"):
        solve.main([f"checkpoint={untrained}", f"data_paths_test=[{tmp_path}]"])


def test_the_command_works_for_every_architecture(tmp_path, capsys):
    arch = {key: value for key, value in TINY_ARCH.items() if key != "puzzle_emb_len"}
    for name in ("hrm", "transformers_baseline"):
        settings = arch | {"name": name, "H_layers": 1, "puzzle_emb_len": 0}
        run = write_run(tmp_path / name, randomised(settings, SIZES_4), settings, metadata=SIZES_4)
        lines = printed(capsys, f"checkpoint={run}", f"puzzle={PUZZLE}", "steps=3")
        assert lines[-2].startswith("halting rule (q_halt > q_continue)")
