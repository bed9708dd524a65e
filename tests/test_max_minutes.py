"""`max_minutes` ends a training with a saved state and an evaluation, and the run can be resumed exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_ranks import train_on
from training_runs import assert_same_run, metrics, newest_state, tiny, train

import pretrain
from utils import checkpoint_schedule
from utils.distributed import World

TRAINED = {"epochs": 4, "eval_interval": 2}
IN_TIME, AT_ONCE = 1e6, 1e-9


class Clock:
    """Time passes with training steps: a minute each, and none in evaluations."""

    def __init__(self, monkeypatch):
        self.minutes = 0
        step = pretrain.train_step

        def counting(*args, **kwargs):
            self.minutes += 1
            return step(*args, **kwargs)

        monkeypatch.setattr(pretrain, "train_step", counting)
        monkeypatch.setattr(checkpoint_schedule.time, "monotonic", lambda: 60.0 * self.minutes)


@pytest.fixture
def reference(identified, tmp_path) -> Path:
    assert train(identified, tmp_path / "reference", **TRAINED) == 0
    return tmp_path / "reference"


def evaluations(folder: Path) -> list[int]:
    return [line["step"] for line in metrics(folder) if "test/accuracy" in line]


@pytest.mark.parametrize("minutes", [3, 5])
def test_a_run_in_pieces_is_the_same_run(identified, reference, tmp_path, monkeypatch, capsys, minutes):
    folder = tmp_path / "run"
    total = newest_state(reference)["shared"]["step"]
    starts = 0
    while not (folder / "result.txt").exists():
        starts += 1
        with monkeypatch.context() as patch:
            Clock(patch)
            assert train(identified, folder, **TRAINED, max_minutes=minutes, resume="auto") == 0
        step = newest_state(folder)["shared"]["step"]
        assert step == min(total, starts * minutes)
        assert evaluations(folder)[-1] == step
        out = capsys.readouterr().out
        assert "solved " in out
        assert ("continue with resume=auto" in out) == (step < total)
    assert starts == -(-total // minutes)
    assert_same_run(folder, reference)


def test_an_evaluation_that_uses_up_the_time_is_not_repeated(identified, reference, tmp_path, monkeypatch):
    """The first of two iterations takes all the time."""
    folder, first = tmp_path / "run", evaluations(reference)[0]
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        evaluate = pretrain.evaluate

        def slow(*args, **kwargs):
            clock.minutes += 100
            return evaluate(*args, **kwargs)

        patch.setattr(pretrain, "evaluate", slow)
        outcome = pretrain.train(tiny(identified, folder, **TRAINED, max_minutes=100), World())
    assert (outcome.ended, outcome.step, evaluations(folder)) == ("out of time", first, [first])
    assert json.loads((folder / "best.json").read_text())["step"] == first
    assert train(identified, folder, **TRAINED, resume="auto") == 0
    assert_same_run(folder, reference)


def test_a_run_that_ends_in_time_is_finished(identified, reference, tmp_path):
    outcome = pretrain.train(tiny(identified, tmp_path / "run", **TRAINED, max_minutes=IN_TIME), World())
    assert outcome.ended == "finished"
    assert (tmp_path / "run" / "result.txt").exists()
    assert_same_run(tmp_path / "run", reference)


def test_the_time_may_end_before_the_first_interval_that_is_evaluated(identified, tmp_path):
    settings = TRAINED | {"min_eval_interval": 2, "max_minutes": AT_ONCE}
    outcome = pretrain.train(tiny(identified, tmp_path / "run", **settings), World())
    assert (outcome.ended, evaluations(tmp_path / "run")) == ("out of time", [1])


def test_all_ranks_stop_at_the_same_step(identified, tmp_path):
    train_on(2, tmp_path, identified, "two", max_minutes=AT_ONCE)
    assert evaluations(tmp_path / "two") == [2]  # the vote on the first step is known after the second
    assert newest_state(tmp_path / "two", rank=1)["shared"]["step"] == 2
