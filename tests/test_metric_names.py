"""Names of metrics predicted before the first evaluation equal the logged ones."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from arc_samples import build as build_arc
from training_runs import tiny

from dataset.families.maze.rules import VOCAB_SIZE, encode
from dataset.format import SplitWriter
from evaluators.base import Evaluator
from evaluators.evaluation import evaluate, metric_names
from evaluators.sudoku import Sudoku
from models.losses import ACTLossHead
from training_run import Run, build
from utils.distributed import World


def write_maze(folder):
    rows = [np.stack([encode(text)] * 8) for text in ("S  G", "So G")]
    for split in ("train", "test"):
        with SplitWriter(
            folder / split, seq_len=4, vocab_size=VOCAB_SIZE, extra={"family": "maze"}
        ) as writer:
            writer.add_groups(*rows, np.zeros(8, int))
            writer.close(1)
    return folder


@pytest.fixture(scope="module")
def datasets(tmp_path_factory, sudoku4x4, identified):
    root = tmp_path_factory.mktemp("families")
    return {
        "sudoku": [sudoku4x4],
        "two of sudoku": [sudoku4x4, shutil.copytree(sudoku4x4, root / "other")],
        "maze": [write_maze(root / "maze")],
        "arc": [build_arc(root / "arc", "--num-aug", "2")],
        "none": [identified],
    }


def names_and_logged(run: Run) -> tuple[set[str] | None, set[str]]:
    results = evaluate(run.state.model, run.test_data, World(), evaluators=run.evaluators)
    return metric_names(run.state.model, run.test_data, run.evaluators), set(results)


@pytest.mark.parametrize("kind", ["sudoku", "two of sudoku", "maze", "arc", "none"])
def test_predicted_and_logged_names_are_equal(datasets, kind, tmp_path):
    run = build(tiny(datasets[kind], tmp_path / "run", evaluators=None), World())
    known, logged = names_and_logged(run)
    # Only difficulty classes with puzzles are logged.
    assert {name for name in known - logged if "difficulty" not in name} == set()
    assert logged <= known


def test_a_custom_evaluator_without_names_leaves_names_unknown(sudoku4x4, tmp_path):
    class Silent(Evaluator):
        def result(self, gather, save_dir):
            return {"mine/value": 1.0}

    class More(Sudoku):
        def result(self, gather, save_dir):
            return super().result(gather, save_dir) | {"more/value": 1.0}

    run = build(tiny(sudoku4x4, tmp_path / "run"), World())
    for cls in (Silent, More):
        own = cls([str(sudoku4x4)], run.test_data.metadata)
        assert metric_names(run.state.model, run.test_data, {"own": own}) is None


def test_a_custom_loss_head_leaves_names_unknown(sudoku4x4, tmp_path):
    class Head(ACTLossHead):
        def loss(self, outputs, labels, halted, steps):
            loss, metrics = super().loss(outputs, labels, halted, steps)
            return loss, metrics | {"mine": loss.detach()}

    run = build(tiny(sudoku4x4, tmp_path / "run"), World())
    run.state.model.__class__ = Head
    assert metric_names(run.state.model, run.test_data, {}) is None
