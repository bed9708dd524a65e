"""A run that is stopped anywhere and resumed equals an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
import torch
from stopped_runs import (
    SETTINGS,
    STOPPED,
    Killed,
    call_at,
    evaluated_steps,
    kill,
    num_steps,
    states,
    stopped_run,
    terminate,
)
from training_runs import ROOT, assert_same_run, metrics, newest_state, run_python, tiny, train

import pretrain
from training_run import build
from utils.distributed import World


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
    """Our architectures seed their draws; those of users may use the global generators of torch, NumPy or Python."""
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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
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
        lambda self, iteration=1, start=0, narrow=False: asked.append((iteration, start)) or iter(()),
    )
    train(identified, folder, **SETTINGS, resume="auto")
    assert asked[0] == (1, 3)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_like_an_uninterrupted_one(tmp_path):
    done = run_python(
        str(ROOT / "benchmarks" / "soak.py"), "kills=8", f"folder={tmp_path}", cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("8 kills")
