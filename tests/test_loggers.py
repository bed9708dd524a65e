"""metrics.jsonl, the console line and the modes of W&B, without a network."""

import json
import os
import subprocess
import sys

import pytest

from utils.distributed import World
from utils.errors import UserError
from utils.loggers import make_loggers
from utils.loggers import wandb as wandb_module
from utils.loggers.console import ConsoleLogger
from utils.loggers.json_lines import JsonLinesLogger, keep_lines
from utils.loggers.wandb import wandb_disabled

RUN = {
    "names": ["wandb"],
    "project": "Sudoku-ACT-torch",
    "run_name": "TRM-brave-fox",
    "config": {"lr": 1e-4, "arch": {"name": "trm"}},
}


pytestmark = pytest.mark.usefixtures("no_wandb_settings")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_line_is_written_immediately_with_step_time_and_names(tmp_path):
    path = tmp_path / "metrics.jsonl"
    logger = JsonLinesLogger(path)
    logger.log({"train/lm_loss": 0.5, "train/lr": 1e-4}, step=10)
    (record,) = read(path)
    assert list(record) == ["step", "time", "train/lm_loss", "train/lr"]
    assert record["step"] == 10
    assert record["train/lm_loss"] == 0.5
    logger.close()


def test_a_value_that_is_not_finite_stays_valid_json(tmp_path):
    logger = JsonLinesLogger(tmp_path / "m")
    logger.log({"a": float("nan"), "b": float("inf"), "c": 1.0}, step=1)
    logger.close()
    record = json.loads((tmp_path / "m").read_text(), parse_constant=pytest.fail)
    assert (record["a"], record["b"], record["c"]) == (None, None, 1.0)


def test_resuming_truncates_to_the_lines_of_the_checkpoint_exactly(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "time": 1.25, "x": step}) + "\n" for step in (10, 20, 20, 30, 40)]
    path.write_text("".join(lines))
    logger = JsonLinesLogger(path, num_lines=3)
    logger.log({"x": 1.0}, step=30)
    logger.close()
    assert path.read_text().startswith("".join(lines[:3]))
    assert [record["step"] for record in read(path)] == [10, 20, 20, 30]


@pytest.mark.parametrize(
    "torn", ['{"step": 20, "ti', '{"step": 20}', "\0\0\0\n", "[20]\n", '{"stp": 20}\n', "\xff\n"]
)
def test_a_torn_line_is_removed_when_a_run_resumes(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 10}\n' + torn.encode("latin-1"))
    assert keep_lines(path, 2) == 1
    assert path.read_text() == '{"step": 10}\n'


def test_truncating_a_missing_file_creates_none(tmp_path):
    keep_lines(tmp_path / "metrics.jsonl", 5)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_truncation_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 10}\n{"step": 20}\n')

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        keep_lines(path, 1)
    assert [record["step"] for record in read(path)] == [10, 20]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file():
    logger = JsonLinesLogger.__new__(JsonLinesLogger)
    logger.path, logger._file = "run/metrics.jsonl", open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(UserError, match=r"run/metrics.jsonl.*[Nn]o space"):
        logger.log({"x": 1.0}, step=1)


def test_a_file_in_place_of_the_metrics_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="metrics"):
        JsonLinesLogger(tmp_path / "file" / "metrics.jsonl")


class Bar:
    def show(self, figures):
        self.shown = figures


def test_the_console_shows_training_in_the_bar_and_evaluation_as_a_line():
    lines, bar = [], Bar()
    console = ConsoleLogger(lines.append, bar)
    console.log({"train/lm_loss": 0.51239, "train/exact_accuracy": 0.25, "train/lr": 1e-4}, step=5)
    assert lines == []
    assert bar.shown == "loss 0.5124, exact 0.25, lr 0.0001"
    console.log({"test/accuracy": 0.98765, "test/exact_accuracy": 0.5}, step=6)
    assert lines == ["step 6: test/accuracy 0.9877, test/exact_accuracy 0.5"]


def test_other_ranks_log_nothing_and_create_no_file(tmp_path):
    loggers = make_loggers(World(rank=1, size=2), tmp_path, **RUN)
    loggers.log({"train/lm_loss": 1.0}, step=1)
    loggers.close()
    assert loggers.run_id is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "disabled"),
    [
        ("WANDB_DISABLED", "true", True),
        ("WANDB_DISABLED", "1", True),
        ("WANDB_DISABLED", "Yes", True),
        ("WANDB_DISABLED", "false", False),
        ("WANDB_DISABLED", "", False),
        ("WANDB_MODE", "disabled", True),
        ("WANDB_MODE", "offline", False),
    ],
)
def test_the_environment_disables_wandb(monkeypatch, name, value, disabled):
    monkeypatch.setenv(name, value)
    assert wandb_disabled() is disabled


def test_disabled_wandb_is_not_imported_and_metrics_are_still_written(tmp_path):
    script = """
import sys
from pathlib import Path
from utils.distributed import World
from utils.loggers import make_loggers
loggers = make_loggers(World(), Path(sys.argv[1]), names=["wandb"], project="p", run_name="r", config={}, run_id="abc")
loggers.log({"test/accuracy": 1.0}, step=3)
loggers.close()
assert loggers.run_id == "abc"
assert "wandb" not in sys.modules
"""
    environment = os.environ | {"WANDB_DISABLED": "true", "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "step 3: test/accuracy 1\n"
    assert os.listdir(tmp_path) == ["metrics.jsonl"]
    assert read(tmp_path / "metrics.jsonl")[0]["test/accuracy"] == 1.0


def test_offline_wandb_stores_its_files_in_the_run_folder_and_keeps_its_id(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "offline")
    loggers = make_loggers(World(), tmp_path, **RUN, run_id="abc12345")
    loggers.log({"train/lm_loss": 1.0}, step=1)
    loggers.close()
    (run_folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert run_folder.name.endswith("-abc12345")
    assert "W&B" not in capsys.readouterr().out  # requested, so there is no message


def test_without_a_login_wandb_runs_offline_with_one_line(tmp_path, capsys):
    loggers = make_loggers(World(), tmp_path, **RUN)
    loggers.log({"train/lm_loss": 1.0}, step=1)
    loggers.close()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "W&B" in line]
    assert "not logged in" in line
    assert "offline" in line
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{loggers.run_id}"))


def test_a_malformed_key_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    make_loggers(World(), tmp_path, **RUN).close()
    assert "invalid" in capsys.readouterr().out
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_an_unresponsive_server_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_module, "WANDB_INIT_SECONDS", 1)
    make_loggers(World(), tmp_path, **RUN).close()
    assert "offline" in capsys.readouterr().out
    assert list((tmp_path / "wandb").glob("offline-run-*"))
