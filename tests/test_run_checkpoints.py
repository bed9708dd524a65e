"""What a run saves: full states, weights, and the best weights."""

from __future__ import annotations

import json

import pytest
import torch
from stopped_runs import evaluated_steps, num_steps, states
from training_runs import metrics, train

import training_run
from utils.checkpoint import Checkpointer
from utils.errors import UserError


def test_a_checkpoint_is_complete(undisturbed):
    path = max(undisturbed.glob("state_step_*/*-shared.pt"), key=lambda path: int(path.parent.name[11:]))
    shared = torch.load(path, weights_only=True)
    of_rank = torch.load(path.with_name(path.name.replace("shared", "rank_0")), weights_only=True)
    assert {"model", "ema", "optimizers", "step", "iteration", "batch", "best", "facts"} <= shared.keys()
    assert shared["optimizers"].keys() == {"weights", "puzzle_emb"}
    assert {"config", "data", "versions", "wandb_run_id", "metrics_lines"} <= shared["facts"].keys()
    assert {"carries", "random", "interval"} <= of_rank.keys()
    assert any(not torch.equal(shared["model"][name], value) for name, value in shared["ema"].items())
    weights = torch.load(undisturbed / f"step_{shared['step']}", weights_only=True)
    for name, average in shared["ema"].items():
        assert torch.equal(weights[name], average), name


def test_only_full_states_are_pruned_never_weights(identified, tmp_path):
    folder = tmp_path / "run"
    train(identified, folder, checkpoint_interval_steps=2, keep_last=1)
    steps = {int(path.name[5:]) for path in folder.glob("step_*")}
    last = num_steps(folder)
    assert {*range(2, last, 2), last} <= steps
    assert [path.name for path in folder.glob("state_step_*")] == [f"state_step_{last}"]


def test_the_end_is_saved_even_without_evaluation(identified, tmp_path):
    folder = tmp_path / "run"
    assert train(identified, folder, min_eval_interval=99) == 0
    assert not any("test/accuracy" in line for line in metrics(folder))
    assert (folder / f"step_{num_steps(folder)}").exists()
    assert (folder / f"state_step_{num_steps(folder)}").exists()


def test_evaluations_are_saved_only_if_configured(identified, tmp_path):
    for every in (True, False):
        folder = tmp_path / str(every)
        assert train(identified, folder, checkpoint_every_eval=every, best_metric=None) == 0
        first, last = evaluated_steps(folder)
        saved = {f"state_step_{first}", f"state_step_{last}"} if every else {f"state_step_{last}"}
        assert states(folder) == saved


def test_a_run_out_of_patience_stops_keeps_its_best_and_is_then_finished(identified, tmp_path, capsys):
    folder = tmp_path / "run"
    settings = {"epochs": 20, "lr": 0.0, "puzzle_emb_lr": 0.0, "early_stop_patience": 2}
    assert train(identified, folder, **settings) == 0
    assert sum("test/accuracy" in line for line in metrics(folder)) == 3
    assert "stopped early" in capsys.readouterr().out
    first = next(line["step"] for line in metrics(folder) if "test/accuracy" in line)
    assert json.loads((folder / "best.json").read_text())["step"] == first
    assert (folder / "best").read_bytes() == (folder / f"step_{first}").read_bytes()
    assert train(identified, folder, **settings, resume="auto") == 0
    assert "this run has already finished" in capsys.readouterr().out


def test_the_best_is_kept_even_if_not_every_evaluation_is_saved(identified, tmp_path):
    folder = tmp_path / "run"
    assert train(identified, folder, epochs=6, best_metric="test/lm_loss", checkpoint_every_eval=False) == 0
    losses = {line["step"]: line["test/lm_loss"] for line in metrics(folder) if "test/lm_loss" in line}
    assert json.loads((folder / "best.json").read_text())["step"] == min(losses, key=losses.get)


def test_a_missing_best_metric_does_not_lose_training(sudoku4x4, tmp_path):
    """The evaluator may log it, so it is accepted at the start, but no 4x4 puzzle is that hard."""
    folder, name = tmp_path / "run", "sudoku/exact_difficulty_over_100"
    with pytest.raises(UserError, match=f"best_metric={name}: no such metric; this run has sudoku/"):
        train(sudoku4x4, folder, evaluators=None, best_metric=name)
    assert states(folder) == {f"state_step_{evaluated_steps(folder)[0]}"}
    with pytest.raises(UserError, match="no such metric"):  # after the training has finished
        train(sudoku4x4, folder, evaluators=None, best_metric=name, resume="auto")
    assert train(sudoku4x4, folder, evaluators=None, best_metric="test/accuracy", resume="auto") == 0


def test_identifier_names_are_read_once_for_any_number_of_saves(identified, tmp_path, monkeypatch):
    read, hashes = [], training_run.identifier_hashes
    monkeypatch.setattr(training_run, "identifier_hashes", lambda paths: read.append(1) or hashes(paths))
    train(identified, tmp_path / "run", checkpoint_interval_steps=1)
    assert len(list((tmp_path / "run").glob("step_*"))) > 5
    assert len(read) == 1


@pytest.mark.slow
def test_saving_states_takes_less_than_a_hundredth_of_the_loop(identified, tmp_path, monkeypatch):
    """With default settings, which save a state at each evaluation; measure the time that the loop waits for saving."""
    made = []
    init = Checkpointer.__init__
    monkeypatch.setattr(
        Checkpointer, "__init__", lambda self, *a, **k: (init(self, *a, **k), made.append(self))[0]
    )
    train(identified, tmp_path / "run", epochs=400, eval_interval=200)
    state = torch.load(
        max((tmp_path / "run").glob("state_step_*/*-shared.pt"), key=lambda p: p.stat().st_mtime),
        weights_only=True,
    )
    assert made[0].blocked_seconds < 0.01 * state["seconds"], (made[0].blocked_seconds, state["seconds"])
