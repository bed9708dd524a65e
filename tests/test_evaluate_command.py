"""`evaluate.py`: reproduces the numbers of a trained run from its config, and reports all conditions."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ranks import outputs_of, run_ranks
from trained_folders import SIZES, TINY_ARCH, randomised, write_run

import evaluate
from config.evaluate_schema import EvaluateConfig
from dataset.format import SplitWriter, write_identifiers
from evaluate import run_evaluation
from evaluators.score import wilson_interval
from puzzle_dataset import IDENTIFIERS_KEY, identifier_hashes
from utils import device
from utils.distributed import World
from utils.errors import UserError
from utils.strict_model import parse

ROOT = Path(__file__).parents[1]
NUM_TEST = 11
NUM_SOLVED = 5


def write_dataset(
    folder: Path, inputs: np.ndarray, labels: np.ndarray, *, vocab_size=7, identifiers=1
) -> str:
    """Write a dataset with the same rows in train and test, with alternating identifiers."""
    ids = np.arange(len(inputs)) % identifiers
    for split in ("train", "test"):
        with SplitWriter(folder / split, seq_len=inputs.shape[1], vocab_size=vocab_size) as writer:
            for x, y, identifier in zip(inputs, labels, ids, strict=True):
                writer.add_group(x[None], y[None], np.array([identifier]))
            writer.close(identifiers)
    write_identifiers(folder, ["<blank>", *map(str, range(1, identifiers))])
    return str(folder)


@torch.no_grad()
def answers(model, inputs: np.ndarray, num_steps: int) -> np.ndarray:
    """Return the answers after `num_steps`, by calling the architecture directly."""
    inner, tokens = model.architecture, torch.from_numpy(inputs)
    state = inner.initial_state(len(inputs))
    for _ in range(num_steps):
        state, (logits, _, _) = inner(
            state, tokens, inner.puzzle_emb(torch.zeros(len(inputs), dtype=torch.int32))
        )
    return logits.argmax(-1).numpy()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Train for 4 steps; test labels are the model's own answers in the first rows, so that it solves exactly those."""
    root = tmp_path_factory.mktemp("run")
    model = randomised()
    inputs = np.random.default_rng(0).integers(1, 7, (NUM_TEST, 16)).astype(np.int32)
    labels = answers(model, inputs, TINY_ARCH["halt_max_steps"])
    assert (labels[:NUM_SOLVED] != 0).any(-1).all()  # 0 is the ignored label; a row needs another one
    labels[NUM_SOLVED:] = labels[NUM_SOLVED:] % 6 + 1
    data = write_dataset(root / "data", inputs, labels)
    return write_run(
        root / "run", model, metadata=SIZES, data_paths=[data], evaluators=[], global_batch_size=4
    )


def report_of(run: Path, **settings) -> dict:
    config = parse(EvaluateConfig, {"checkpoint": str(run), "device": "cpu", "compile": False} | settings)
    return run_evaluation(config, World())


def test_the_run_folder_determines_the_evaluation_and_the_report_counts_rows(run, tmp_path):
    report = report_of(run, out=str(tmp_path))
    assert report["rows"] == report["rows_of_the_data"] == report["rows_with_labels"] == NUM_TEST
    assert report["rows_solved"] == NUM_SOLVED
    assert report["metrics"]["test/exact_accuracy"] == pytest.approx(NUM_SOLVED / NUM_TEST)
    low, high = report["exact_accuracy_interval_95"]
    assert low < NUM_SOLVED / NUM_TEST < high
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["step"] == 10
    assert report["ema"] is True


def test_limit_evaluates_the_first_rows_and_reports_it(run, tmp_path, capsys):
    report = report_of(run, limit=6, out=str(tmp_path))
    whole = report_of(run, out=str(tmp_path))
    assert (report["rows"], report["rows_of_the_data"]) == (6, NUM_TEST)
    assert report["rows_solved"] == whole["rows_solved"] == NUM_SOLVED
    assert "the first 6 of 11 rows" in capsys.readouterr().out
    lines = (tmp_path / "reports.jsonl").read_text().splitlines()
    assert [json.loads(line)["rows"] for line in lines] == [6, NUM_TEST]


@pytest.mark.parametrize(
    ("trained_with", "settings", "expected"),
    [
        ([True], {}, "fused"),
        (["fused"], {}, "fused"),
        ([False], {}, None),
        (["auto"], {}, None),
        (["default"], {}, None),
        ([None], {}, None),  # a published run, whose config has no such key
        ([True, False], {}, None),  # members of an ensemble
        ([False], {"halt": "auto"}, "fused"),
        ([True], {"compile": False}, None),
    ],
)
def test_compiled_code_evaluates_what_it_has_trained(trained_with, settings, expected, monkeypatch):
    monkeypatch.setattr(evaluate.FusedCPU, "fits", lambda inner: True)
    monkeypatch.setattr(device, "missing_toolchain", lambda: None)
    monkeypatch.delenv("DISABLE_COMPILE", raising=False)
    members = [SimpleNamespace(config=SimpleNamespace(values={"compile": value})) for value in trained_with]
    solvers = [SimpleNamespace(head=SimpleNamespace(architecture=None)) for _ in members]
    parts = SimpleNamespace(
        config=parse(EvaluateConfig, {"checkpoint": "run"} | settings),
        world=World(),
        members=members,
        solvers=solvers,
    )
    assert evaluate.compile_mode(parts)[0] == expected


def test_more_steps_than_trained_can_be_requested(run, tmp_path):
    report = report_of(run, halt_max_steps=9, out=str(tmp_path), eval_save_outputs=["preds", "inputs"])
    assert (report["halt_max_steps"], report["halt_max_steps_of_training"]) == (9, 4)
    saved = torch.load(tmp_path / "step_10_all_preds.0", weights_only=True)
    expected = answers(randomised(), saved["inputs"].numpy(), 9)
    assert np.array_equal(saved["preds"].numpy(), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limmit": 5}, "limmit: unknown key; nearest valid keys: limit"),
        ({"checkpoint": None}, "checkpoint: None is not valid: name the folder of a run"),
        ({"eval_save_outputs": ["predz"]}, "predz"),
        ({"step": 11}, r"no weights of step 11; it has: step_10"),
        ({"data_paths_test": ["nowhere"]}, "nowhere"),
        ({"evaluators": [{"name": "arch@ARC"}]}, "evaluators.name='arch@ARC'"),
        ({"device": "cuda9"}, "device"),
    ],
)
def test_errors_name_the_wrong_key_or_value(run, settings, message):
    with pytest.raises(UserError, match=message):
        report_of(run, **settings)


def test_data_of_a_different_size_is_rejected_before_anything_is_computed(run, tmp_path):
    rows = np.ones((3, 36), np.int32)
    other = write_dataset(tmp_path / "six", rows, rows, vocab_size=8)
    with pytest.raises(UserError, match=r"(?s)seq_len: 16 in the weights, 36 in the data.*vocab_size: 7 in"):
        report_of(run, data_paths_test=[other])


def test_a_missing_dataset_of_the_run_explains_how_to_specify_it(tmp_path):
    folder = write_run(tmp_path / "run", randomised(), metadata=SIZES, data_paths=["not/here"], evaluators=[])
    with pytest.raises(UserError, match=r"(?s)not/here.*data_paths_test=\[DIR\]"):
        report_of(folder)


def test_other_puzzle_identifiers_are_rejected(tmp_path):
    rows = np.random.default_rng(0).integers(1, 7, (6, 16))
    trained_on = write_dataset(tmp_path / "trained_on", rows, rows, identifiers=3)
    other = write_dataset(tmp_path / "other", rows, rows, identifiers=3)
    write_identifiers(other, ["<blank>", "2", "1"])
    sizes = SIZES | {"num_puzzle_identifiers": 3}
    metadata = sizes | {IDENTIFIERS_KEY: identifier_hashes([trained_on])}
    model = randomised(sizes=sizes)
    folder = write_run(tmp_path / "run", model, metadata=metadata, data_paths=[trained_on], evaluators=[])
    assert report_of(folder, global_batch_size=2)["rows"] == 6
    with pytest.raises(UserError, match="differs from the training data of"):
        report_of(folder, data_paths_test=[other])


def evaluate_and_print(run: str, out: str) -> None:
    config = EvaluateConfig(checkpoint=run, device="cpu", compile=False, out=out, limit=9)
    with World.start("cpu") as world:
        report = run_evaluation(config, world)
        print("REPORT", json.dumps([report["rows"], report["rows_solved"], report["metrics"]]))


def test_two_processes_give_the_same_report_as_one(run, tmp_path):
    alone = report_of(run, limit=9, out=str(tmp_path / "alone"))
    printed = outputs_of(run_ranks(tmp_path, evaluate_and_print, str(run), str(tmp_path / "out")))
    for output in printed:
        line = next(line for line in output.splitlines() if line.startswith("REPORT"))
        rows, solved, metrics = json.loads(line.removeprefix("REPORT "))
        assert (rows, solved) == (alone["rows"], alone["rows_solved"])
        assert metrics == pytest.approx(alone["metrics"])


def test_the_command_line_works_and_errors_have_no_traceback(run, tmp_path):
    def start(*overrides):
        return subprocess.Popen(
            [sys.executable, ROOT / "evaluate.py", f"checkpoint={run}", f"out={tmp_path}", *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "DISABLE_COMPILE": "1"},
        )

    good, bad = start("+limit=4", "device=cpu"), start("limit=0")
    printed, errors = good.communicate()
    assert good.returncode == 0, errors
    assert "95% interval" in printed
    pictures = {f"accuracy_against_compute_plain.{kind}" for kind in ("pdf", "png", "svg")}
    names = pictures | {"metrics.jsonl", "report.json", "reports.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names
    _, errors = bad.communicate()
    assert bad.returncode == 2
    assert errors.startswith("error: the config is not valid")
    assert "Traceback" not in errors


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (5, 10), (523, 600), (0, 1)])
def test_the_interval_contains_the_shares_compatible_with_the_result(successes, trials):
    # The Wilson interval inverts the score test: its ends are 1.96 of their own standard errors away from the share.
    low, high = wilson_interval(successes, trials)
    share = successes / trials
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / trials), rel=1e-6)
