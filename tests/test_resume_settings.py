"""Which state a run resumes from, and which settings and data may differ from those of its checkpoint."""

from __future__ import annotations

import pytest
from conftest import write_identified
from stopped_runs import SETTINGS, call_at, stopped_run, terminate
from training_runs import assert_same_run, metrics, tiny, train

import pretrain
from config.resume import check_changes
from utils.distributed import World
from utils.errors import UserError


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
    assert pretrain.train(config, World()).exit_code == 0
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


def test_a_run_is_not_resumed_with_a_meaningless_change(identified, tmp_path, monkeypatch):
    folder = stopped_run(identified, tmp_path / "run", monkeypatch)
    before = metrics(folder)
    with pytest.raises(UserError, match=r"cannot be resumed with another value of\n  seed: 0 .* 1 now"):
        train(identified, folder, **SETTINGS | {"seed": 1}, resume="auto")
    assert metrics(folder) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("global_batch_size", 4),
        ("eval_interval", 4),
        ("ema", True),
        ("freeze_weights", True),
        ("grad_accum_steps", 2),
        ("depth_curriculum", True),
        ("augment", "online"),
        ("reveal_prob", 0.5),
    ],
)
def test_settings_of_the_saved_weights_and_stream_cannot_change(identified, tmp_path, key, value):
    before, after = tiny(identified, tmp_path), tiny(identified, tmp_path, **{key: value})
    with pytest.raises(UserError, match=rf"another value of\n  {key}: .* in the checkpoint, {value!r} now\n"):
        check_changes(before.model_dump(), after.model_dump())


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
