"""`logger=tensorboard`: event files of a run of pretrain.py, and errors without the package."""

from __future__ import annotations

import json
import sys

import pytest
from training_runs import TINY, in_process_command, tiny, train

from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("no_wandb_settings")


def events(folder):
    """Return name -> {step: value} of scalars, names of pictures, and the config text, as in TensorBoard."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    scalars = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    (config,) = found.Tensors("config/text_summary")[-1].tensor_proto.string_val
    return scalars, set(found.Tags()["images"]), config.decode()


def logged(folder):
    """Return the same scalars from metrics.jsonl."""
    scalars = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for name, value in line.items():
            if name not in ("step", "time"):
                scalars.setdefault(name, []).append((line["step"], pytest.approx(value, rel=1e-6)))
    return scalars


def test_a_command_with_tensorboard_logs_every_metric_the_pictures_and_the_config(
    sudoku4x4, tmp_path, monkeypatch
):
    pytest.importorskip("tensorboard")
    arguments = [*TINY, f"data_paths=[{sudoku4x4}]", "epochs=2", "eval_interval=2", "checkpoint_path=run"]
    assert in_process_command(monkeypatch, tmp_path, *arguments, "logger=tensorboard") == 0
    folder = tmp_path / "run"
    scalars, pictures, config = events(folder)
    assert scalars == logged(folder)
    assert {"train/lm_loss", "test/exact_accuracy"} <= scalars.keys()
    assert {"pictures/accuracy_by_step", "pictures/first_test_puzzle"} <= pictures
    assert "    lr: 0.001\n" in config
    assert not (folder / "wandb").exists()


def test_a_resumed_run_logs_each_update_once(identified, tmp_path):
    pytest.importorskip("tensorboard")
    values = {"logger": ["tensorboard"], "log_interval": 1}
    folder = tmp_path / "run"
    assert train(identified, folder, **values | {"epochs": 2}, checkpoint_interval_steps=3) == 0
    ahead = logged(folder)["train/lm_loss"][-1][0]
    assert train(identified, folder, **values, resume=str(folder / "state_step_3")) == 0
    assert ahead > 3
    assert events(folder)[0]["train/lm_loss"] == logged(folder)["train/lm_loss"]


def test_both_loggers_get_all_metrics(identified, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train(identified, tmp_path / "run", logger=["wandb", "tensorboard"]) == 0
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert events(tmp_path / "run")[0] == logged(tmp_path / "run")


def test_without_the_package_the_run_does_not_start(identified, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"logger=tensorboard needs the package tensorboard .*pip install"):
        train(identified, tmp_path / "run", logger="tensorboard")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("wandb", ["wandb"]),
        (["tensorboard", "wandb", "tensorboard"], ["tensorboard", "wandb"]),
        ([], []),
        (None, []),
    ],
)
def test_one_name_a_list_or_none_is_accepted(identified, tmp_path, given, names):
    assert tiny(identified, tmp_path, logger=given).logger == names


def test_an_unknown_logger_is_rejected_with_the_known_ones(identified, tmp_path):
    with pytest.raises(
        UserError, match=r"logger: .*'mlflow' is not a logger; choose from wandb, tensorboard"
    ):
        tiny(identified, tmp_path, logger=["wandb", "mlflow"])
