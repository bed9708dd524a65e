"""A run that is stopped anywhere and resumed equals an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_identified
from training_runs import ROOT, assert_same_run, metrics, newest_state, run_python, tiny, train

import pretrain
import training_run
from training_run import build
from utils.checkpoint import Checkpointer
from utils.distributed import World
from utils.errors import UserError

STOPPED = 128 + signal.SIGTERM
# 12 groups of two puzzles, 2 epochs per iteration, batches of 8: few steps, which differ between iterations.
SETTINGS = {"ema": True, "checkpoint_interval_steps": None}


def call_at(monkeypatch, name: str, count: int, action: Callable[[], None]) -> None:
    """Call `action` right before `pretrain` calls its function `name` for the count-th time."""
    function, calls = getattr(pretrain, name), []

    def counting(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            action()
        return function(*args, **kwargs)

    monkeypatch.setattr(pretrain, name, counting)


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


class Killed(BaseException):
    """End the run immediately like SIGKILL, because no handler catches it."""


def kill() -> None:
    raise Killed


@pytest.fixture(scope="module")
def undisturbed(identified, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(identified, folder, **SETTINGS) == 0
    return folder


def evaluated_steps(folder: Path) -> list[int]:
    return [line["step"] for line in metrics(folder) if "test/accuracy" in line]


def states(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("state_step_*")}


def num_steps(folder: Path) -> int:
    return metrics(folder)[-1]["step"]


def test_the_run_is_long_enough_to_be_stopped_within_both_iterations(undisturbed):
    first, last = (line["step"] for line in metrics(undisturbed) if "test/accuracy" in line)
    assert first >= 4
    assert last - first >= 4
    assert first % 3, "an evaluation must also end an interval of metrics"


@pytest.mark.parametrize("step", ["first", "within", "before the evaluation", "after it", "last"])
def test_a_run_stopped_by_a_signal_at_any_step_ends_like_an_uninterrupted_one(
    identified, undisturbed, tmp_path, monkeypatch, step
):
    evaluated, last = (line["step"] for line in metrics(undisturbed) if "test/accuracy" in line)
    count = {
        "first": 1,
        "within": 2,
        "before the evaluation": evaluated,
        "after it": evaluated + 1,
        "last": last,
    }
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", count[step], terminate)
        assert train(identified, folder, **SETTINGS) == STOPPED
    assert newest_state(folder)["shared"]["step"] == count[step]
    assert train(identified, folder, **SETTINGS, resume="auto") == 0
    assert_same_run(folder, undisturbed)


@pytest.mark.parametrize("evaluation", [1, 2])
def test_a_run_stopped_during_an_evaluation_evaluates_again(
    identified, undisturbed, tmp_path, monkeypatch, evaluation
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        call_at(patch, "evaluate", evaluation, terminate)
        assert train(identified, folder, **SETTINGS) == STOPPED
    assert sum("test/accuracy" in line for line in metrics(folder)) == evaluation - 1
    assert f"state_step_{evaluated_steps(undisturbed)[evaluation - 1]}" in states(folder)
    assert train(identified, folder, **SETTINGS, resume="auto") == 0
    assert_same_run(folder, undisturbed)


def test_a_run_may_be_stopped_after_every_step(identified, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    for _ in range(num_steps(undisturbed)):
        with monkeypatch.context() as patch:
            call_at(patch, "train_step", 1, terminate)
            assert train(identified, folder, **SETTINGS, resume="auto") == STOPPED
    assert train(identified, folder, **SETTINGS, resume="auto") == 0
    assert_same_run(folder, undisturbed)


def test_random_numbers_from_the_common_generators_go_on_after_resuming(identified, tmp_path, monkeypatch):
    """The architectures here seed what they draw; one of a user's may draw from torch, NumPy or Python as it is."""
    step, drawn = pretrain.train_step, []

    def drawing(*args, **kwargs) -> None:
        drawn.append((torch.rand(()).item(), np.random.random(), random.random()))  # noqa: NPY002
        step(*args, **kwargs)

    monkeypatch.setattr(pretrain, "train_step", drawing)
    assert train(identified, tmp_path / "whole", **SETTINGS) == 0
    expected, drawn[:] = list(drawn), []
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 3, terminate)
        assert train(identified, tmp_path / "run", **SETTINGS) == STOPPED
    assert train(identified, tmp_path / "run", **SETTINGS, resume="auto") == 0
    assert drawn == expected
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("logged", ["nothing", "an interval", "an evaluation"])
def test_metrics_after_the_last_checkpoint_of_a_killed_run_are_logged_once(
    identified, undisturbed, tmp_path, monkeypatch, logged
):
    evaluated = next(line["step"] for line in metrics(undisturbed) if "test/accuracy" in line)
    # Saved at the last step of the iteration, before its evaluation, but not at the evaluation itself.
    settings = SETTINGS | {
        "checkpoint_interval_steps": evaluated,
        "checkpoint_every_eval": False,
        "best_metric": None,
    }
    reference, folder = tmp_path / "reference", tmp_path / "run"
    train(identified, reference, **settings)
    with monkeypatch.context() as patch:
        call_at(
            patch,
            "train_step",
            evaluated + {"nothing": 1, "an interval": 5, "an evaluation": 3}[logged],
            kill,
        )
        with pytest.raises(Killed):
            train(identified, folder, **settings)
    assert sum("test/accuracy" in line for line in metrics(folder)) == 1
    assert train(identified, folder, **settings, resume="auto") == 0
    assert_same_run(folder, reference)


@pytest.mark.parametrize(
    "overrides",
    [
        ["grad_accum_steps=2"],
        ["arch.puzzle_emb_ndim=0"],
        ["freeze_weights=True"],
        ["arch=hrm"],
        ["arch=trm_hier6", "arch.L_cycles=2", "arch.no_ACT_continue=False"],
        ["arch.forward_dtype=bfloat16", "arch.mlp_t=True"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_kind_of_run_resumes_exactly(identified, tmp_path, monkeypatch, overrides):
    if overrides[0] == "arch=hrm":
        overrides = [*overrides, "~arch.puzzle_emb_len"]
    reference, folder = tmp_path / "reference", tmp_path / "run"
    train(identified, reference, *overrides)
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 4, terminate)
        assert train(identified, folder, *overrides) == STOPPED
    assert train(identified, folder, *overrides, resume="auto") == 0
    assert_same_run(folder, reference)


def test_a_resumed_run_continues_the_same_wandb_run(identified, tmp_path, monkeypatch):
    asked, given, make_loggers = [], [], pretrain.make_loggers

    def remembering(*args, run_id=None, **kwargs):
        loggers = make_loggers(*args, run_id=run_id, **kwargs)
        asked.append(run_id)
        given.append(loggers.run_id)
        return loggers

    monkeypatch.setattr(pretrain, "make_loggers", remembering)
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 4, terminate)
        assert train(identified, tmp_path / "run") == STOPPED
    assert train(identified, tmp_path / "run", resume="auto") == 0
    assert train(identified, tmp_path / "other") == 0
    assert asked == [None, given[0], None]
    assert given[1] == given[0] != given[2]


def test_resuming_an_empty_folder_starts_a_new_run_with_a_message(identified, undisturbed, tmp_path, capsys):
    folder = tmp_path / "run"
    assert train(identified, folder, **SETTINGS, resume="auto") == 0
    assert "has no checkpoint yet, starting a new run" in capsys.readouterr().out
    assert_same_run(folder, undisturbed)


def test_a_run_killed_before_its_first_checkpoint_starts_over(identified, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 4, kill)
        with pytest.raises(Killed):
            train(identified, folder, **SETTINGS)
    assert metrics(folder)
    assert train(identified, folder, **SETTINGS, resume="auto") == 0
    assert_same_run(folder, undisturbed)


def test_a_finished_run_is_not_changed_and_reported(identified, tmp_path, capsys):
    folder = tmp_path / "run"
    train(identified, folder, **SETTINGS)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert train(identified, folder, **SETTINGS, resume="auto") == 0
    assert "this run has already finished, after step" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_with_a_run_is_not_overwritten(identified, tmp_path):
    folder = tmp_path / "run"
    train(identified, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="already holds a run: continue that one with resume=auto"):
        train(identified, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("form", ["{run}", "{run}/state_step_{step}", "{run}/step_{step}"])
def test_a_state_can_be_named_in_three_ways_and_its_folder_is_found(
    identified, undisturbed, tmp_path, monkeypatch, form
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 5, terminate)
        train(identified, folder, **SETTINGS)
    config = tiny(identified, folder, **SETTINGS, resume=form.format(run=folder, step=5))
    config = config.model_copy(update={"checkpoint_path": None})
    assert pretrain.train(config, World()) == 0
    assert_same_run(folder, undisturbed)


def test_an_older_state_can_be_named(identified, undisturbed, tmp_path):
    folder = tmp_path / "run"
    train(identified, folder, **SETTINGS)
    first = min(folder.glob("state_step_*"), key=lambda path: int(path.name[11:]))
    assert train(identified, folder, **SETTINGS, resume=str(first)) == 0
    assert_same_run(folder, undisturbed)


def test_a_state_of_another_folder_continues_in_a_new_one(identified, undisturbed, tmp_path):
    first = min(undisturbed.glob("state_step_*"), key=lambda path: int(path.name[11:]))
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    fork = tmp_path / "fork"
    assert train(identified, fork, **SETTINGS, resume=str(first)) == 0
    assert {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()} == before
    cut = int(first.name[11:])
    assert metrics(fork) == [line for line in metrics(undisturbed) if line["step"] > cut]
    with pytest.raises(UserError, match="already holds another run"):
        train(identified, fork, **SETTINGS, resume=str(first))


def test_a_folder_without_a_state_is_an_error_with_a_suggestion(identified, tmp_path):
    with pytest.raises(
        UserError, match="no full training state there; name a run's folder or a state_step_N"
    ):
        train(identified, tmp_path / "run", resume=str(tmp_path / "nothing"))


def test_auto_without_a_run_name_is_rejected(identified):
    with pytest.raises(UserError, match="resume=auto needs checkpoint_path="):
        tiny(identified, "x", checkpoint_path=None, resume="auto")


def stopped_run(identified, folder, monkeypatch, step=4, **settings) -> Path:
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", step, terminate)
        assert train(identified, folder, **SETTINGS | settings) == STOPPED
    return folder


def test_allowed_changes_are_reported_and_take_effect(identified, tmp_path, monkeypatch, capsys):
    folder = stopped_run(identified, tmp_path / "run", monkeypatch)
    changes = {"lr": 1e-2, "log_interval": 1, "epochs": 6}
    assert train(identified, folder, **SETTINGS | changes, resume="auto") == 0
    out = capsys.readouterr().out
    for line in ("lr: 0.001 in the checkpoint, 0.01 now", "epochs: 4 in the checkpoint, 6 now"):
        assert f"resume: {line}" in out
    assert "resume: run_name" not in out
    assert sum("test/accuracy" in line for line in metrics(folder)) == 3
    assert metrics(folder)[-2]["train/lr"] == 1e-2


@pytest.mark.parametrize(
    ("key", "value"),
    [("global_batch_size", 4), ("eval_interval", 4), ("seed", 1), ("ema", False), ("grad_accum_steps", 2)],
)
def test_meaningless_changes_are_rejected(identified, tmp_path, monkeypatch, key, value):
    folder = stopped_run(identified, tmp_path / "run", monkeypatch)
    before = metrics(folder)
    with pytest.raises(UserError, match=rf"cannot be resumed with another value of\n  {key}: .* {value} now"):
        train(identified, folder, **SETTINGS | {key: value}, resume="auto")
    assert metrics(folder) == before


def test_a_different_model_is_rejected(identified, tmp_path, monkeypatch):
    folder = stopped_run(identified, tmp_path / "run", monkeypatch)
    with pytest.raises(UserError, match=r"arch\.H_cycles: 2 in the checkpoint, 3 now"):
        train(identified, folder, "arch.H_cycles=3", **SETTINGS, resume="auto")


def test_epochs_cannot_change_if_they_are_one_iteration(identified, tmp_path, monkeypatch):
    folder = stopped_run(identified, tmp_path / "run", monkeypatch, eval_interval=None)
    with pytest.raises(UserError, match="epochs: 4 in the checkpoint, 6 now"):
        train(identified, folder, **SETTINGS | {"epochs": 6, "eval_interval": None}, resume="auto")


def test_the_same_data_in_another_folder_is_accepted_but_not_other_data(
    identified, undisturbed, tmp_path, monkeypatch, capsys
):
    folder = stopped_run(identified, tmp_path / "run", monkeypatch)
    renamed = write_identified(tmp_path / "renamed", names="abcdeg")
    with pytest.raises(UserError, match=r"not what this run was trained on\n  puzzle identifiers"):
        train(renamed, folder, **SETTINGS, resume="auto")
    more = write_identified(tmp_path / "more", names="abcdefg")
    with pytest.raises(UserError, match="num_puzzle_identifiers: 7 in the checkpoint, 8 now"):
        train(more, folder, **SETTINGS, resume="auto")
    moved = write_identified(tmp_path / "moved")
    assert train(moved, folder, **SETTINGS, resume="auto") == 0
    assert "resume: data_paths: " in capsys.readouterr().out
    assert_same_run(folder, undisturbed)


def test_a_run_with_a_damaged_state_continues_from_the_previous_one(
    identified, undisturbed, tmp_path, capsys
):
    folder = tmp_path / "run"
    train(identified, folder, **SETTINGS)
    newest = max(folder.glob("state_step_*/*-shared.pt"), key=lambda path: int(path.parent.name[11:]))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    assert train(identified, folder, **SETTINGS, resume="auto") == 0
    assert "its SHA-256 differs from the manifest's); skipped" in capsys.readouterr().out
    assert_same_run(folder, undisturbed)


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


def test_a_failing_evaluator_does_not_lose_training(identified, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def fail() -> None:
        raise OSError("no file")

    with monkeypatch.context() as patch:
        call_at(patch, "evaluate", 1, fail)
        with pytest.raises(OSError, match="no file"):
            train(identified, folder, **SETTINGS)
    assert states(folder) == {f"state_step_{evaluated_steps(undisturbed)[0]}"}
    assert train(identified, folder, **SETTINGS, resume="auto") == 0
    assert_same_run(folder, undisturbed)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_each_signal_saves_exits_with_its_code_and_restores_the_handlers(
    identified, tmp_path, monkeypatch, capsys, name
):
    number, before = getattr(signal, name), signal.getsignal(getattr(signal, name))
    call_at(monkeypatch, "train_step", 2, lambda: os.kill(os.getpid(), number))
    assert train(identified, tmp_path / "run") == 128 + number
    assert f"stopped by {name} after step 2" in capsys.readouterr().out
    assert signal.getsignal(number) == before
    assert newest_state(tmp_path / "run")["shared"]["step"] == 2


def test_resuming_does_not_read_used_batches(identified, tmp_path, monkeypatch):
    """The stream starts at the saved position instead of replaying earlier batches."""
    folder = stopped_run(identified, tmp_path / "run", monkeypatch, step=3)
    config = tiny(identified, folder, **SETTINGS, resume="auto")
    run = build(config, World())
    asked = []
    monkeypatch.setattr(
        type(run.train_data),
        "batches",
        lambda self, iteration=1, start=0: asked.append((iteration, start)) or iter(()),
    )
    train(identified, folder, **SETTINGS, resume="auto")
    assert asked[0] == (1, 3)


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


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(tmp_path):
    done = run_python(
        str(ROOT / "benchmarks" / "soak.py"), "kills=8", f"folder={tmp_path}", cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("8 kills")
