"""Sweeps: the objective that a job returns, the record of how each job ended, and the plugins of Hydra."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
import yaml
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from pages import commands_in, page
from stopped_runs import call_at, terminate
from test_commands import SMALL, block, line_of, shell
from test_commands import place as place  # a fixture
from training_runs import TINY, in_process_command, tiny

from config import jobs
from config.jobs import RECORD_FILE, check_objective
from config.overrides import PLUGINS, hydra_error
from utils.errors import UserError
from utils.outcome import Ending, lower_is_better

SIGTERM_CODE = 143


def sweep(monkeypatch, folder: Path, data: Path, *arguments: str) -> tuple[int, list[dict]]:
    """Train a sweep in `folder`; return the exit code and the lines of its record."""
    given = [f"data_paths=[{data}]", "epochs=4", "eval_interval=2", "checkpoint_path=runs/${hydra:job.num}"]
    settings = [*TINY, *given, "hydra.sweep.dir=runs", *arguments]
    code = in_process_command(monkeypatch, folder, "--multirun", *settings)
    return code, [json.loads(line) for line in (folder / "runs" / RECORD_FILE).read_text().splitlines()]


def test_each_job_is_recorded_with_the_best_value_of_its_metric(identified, tmp_path, monkeypatch):
    code, lines = sweep(monkeypatch, tmp_path, identified, "seed=0,1", "best_metric=test/lm_loss")
    assert code == 0
    assert [(line["job"], line["ended"]) for line in lines] == [(0, "finished"), (1, "finished")]
    for line in lines:
        best = json.loads((tmp_path / line["folder"] / "best.json").read_text())
        assert (line["metric"], line["value"]) == ("test/lm_loss", best["value"])
        assert f"seed={line['job']}" in line["overrides"]


def test_a_failed_job_has_no_value_and_the_others_are_trained(identified, tmp_path, monkeypatch, capsys):
    code, lines = sweep(monkeypatch, tmp_path, identified, "lr=1e14,1e-3,1e-3", "arch.num_heads=2")
    assert code == 2
    assert [line["ended"] for line in lines] == ["failed", "finished", "finished"]
    assert "value" not in lines[0]
    assert "the loss or its gradient is not finite" in lines[0]["error"]
    err = capsys.readouterr().err
    assert "error: job 0 of the sweep: step " in err
    assert "Traceback" not in err


def test_a_job_out_of_patience_has_a_value_and_says_that_it_stopped(identified, tmp_path, monkeypatch):
    settings = ["lr=0", "puzzle_emb_lr=0", "epochs=20", "early_stop_patience=1", "best_metric=test/lm_loss"]
    code, (line,) = sweep(monkeypatch, tmp_path, identified, *settings)
    assert (code, line["ended"]) == (0, "stopped early")
    assert line["value"] > 0


def test_a_job_out_of_time_counts_its_last_evaluation(identified, tmp_path, monkeypatch):
    settings = ["max_minutes=1e-9", "best_metric=test/lm_loss"]
    code, (line,) = sweep(monkeypatch, tmp_path, identified, *settings)
    assert (code, line["ended"], line["step"]) == (0, "out of time", 1)
    assert line["value"] > 0
    assert not (tmp_path / line["folder"] / "best.json").exists()


def test_a_signal_ends_the_whole_sweep(identified, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 3, terminate)
        code, lines = sweep(patch, tmp_path, identified, "seed=0,1")
    assert code == SIGTERM_CODE
    assert [line["ended"] for line in lines] == ["stopped by a signal"]


def test_a_finished_run_returns_its_score_without_training(identified, tmp_path, monkeypatch):
    _, before = sweep(monkeypatch, tmp_path, identified, "resume=auto", "best_metric=test/lm_loss")
    code, lines = sweep(monkeypatch, tmp_path, identified, "resume=auto", "best_metric=test/lm_loss")
    assert code == 0
    assert lines == before * 2


# ------------------------------------------------------------------------------ what an optimising sweeper needs


@pytest.fixture
def optuna(monkeypatch):
    """Let the code see the config of an Optuna sweeper, of the direction that is given."""

    def choose(direction) -> None:
        found = OmegaConf.create(
            {
                "sweeper": {"_target_": "hydra_plugins.OptunaSweeper", "direction": direction},
                "runtime": {"choices": {"hydra/sweeper": "optuna"}},
            }
        )
        monkeypatch.setattr(jobs, "HydraConfig", SimpleNamespace(get=lambda: found))

    return choose


@pytest.mark.parametrize(
    ("metric", "right"), [("auto", "maximize"), ("test/solved", "maximize"), ("test/lm_loss", "minimize")]
)
def test_the_direction_must_be_that_of_the_metric(optuna, identified, tmp_path, metric, right):
    config = tiny(identified, tmp_path, best_metric=metric)
    assert lower_is_better(metric) == (right == "minimize")
    optuna(right)
    check_objective(config)
    optuna([right])
    check_objective(config)
    for wrong in ({"maximize", "minimize"} - {right}).pop(), [right, right]:
        optuna(wrong)
        with pytest.raises(UserError, match=rf"use hydra\.sweeper\.direction={right}"):
            check_objective(config)


def test_a_direction_that_optuna_does_not_know_is_a_users_error():
    create_study = pytest.importorskip("optuna").create_study
    with pytest.raises(ValueError, match="'minimize' or 'maximize'") as raised:
        create_study(direction="up")
    assert "'minimize' or 'maximize'" in str(hydra_error(raised.value))


def test_an_optimising_sweeper_needs_an_objective_and_one_process(optuna, identified, tmp_path, monkeypatch):
    optuna("maximize")
    with pytest.raises(UserError, match="best_metric=null: hydra/sweeper=optuna needs an objective"):
        check_objective(tiny(identified, tmp_path, best_metric=None))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="each of the 2 processes would choose its own trials"):
        check_objective(tiny(identified, tmp_path))


@pytest.mark.parametrize("choice", [f"{group}={name}" for group, names in PLUGINS.items() for name in names])
def test_a_missing_plugin_is_named_with_its_requirements(choice):
    group, name = choice.split("=")
    missing = MissingConfigException("not there", f"{group}/{name}", ["basic"])
    assert (
        str(hydra_error(missing))
        == f"{choice}: needs a plugin of Hydra, pip install -r requirements-sweeps.txt"
    )


# ------------------------------------------------------------------------------ the commands of the guide


def needs(plugin: str):
    found = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    return pytest.mark.skipif(not found, reason="needs requirements-sweeps.txt")


def run_guide(place: Path, heading: str, **replaced: str) -> list[dict]:
    """Run the command of a section, small; return the record of its sweep."""
    data = line_of(block("training", "Recipes"), "data/sudoku-4x4")
    shell(place, f"{data} --generate 16 --num-aug 1 --test-size 5")
    command = block("sweeps", heading)
    for old, new in replaced.items():
        assert old in command
        command = command.replace(old, new)
    shell(place, f"{command} {SMALL} epochs=2 eval_interval=1")
    (folder,) = [
        argument.removeprefix("hydra.sweep.dir=")
        for argument in commands_in(command)[0].arguments
        if argument.startswith("hydra.sweep.dir=")
    ]
    return [json.loads(line) for line in (place / folder / RECORD_FILE).read_text().splitlines()]


@needs("hydra_optuna_sweeper")
def test_optuna_gets_the_score_of_each_job(place):
    lines = run_guide(place, "Optuna chooses the settings")
    assert [line["ended"] for line in lines] == ["finished"] * 8
    tried = {next(text for text in line["overrides"] if text.startswith("lr=")) for line in lines}
    assert len(tried) == 8
    found = yaml.safe_load((place / "checkpoints" / "optuna" / "optimization_results.yaml").read_text())
    assert found["best_value"] == max(line["value"] for line in lines)
    assert found["best_params"].keys() == {"++lr", "++arch.L_cycles"}


@needs("hydra_joblib_launcher")
def test_joblib_trains_jobs_side_by_side(place):
    lines = run_guide(place, "Several jobs at a time on one machine")
    assert sorted((line["job"], line["ended"]) for line in lines) == [(0, "finished"), (1, "finished")]


@needs("hydra_submitit_launcher")
def test_submitit_trains_each_job_in_a_process_of_its_own(place):
    own = "hydra.launcher.max_num_timeout=10 "  # of Slurm
    lines = run_guide(place, "Slurm", **{"submitit_slurm": "submitit_local", own: ""})
    assert sorted((line["job"], line["ended"]) for line in lines) == [(0, "finished"), (1, "finished")]


def test_the_guide_lists_every_ending():
    rows = page("docs/guides/sweeps.md").table("Which job has which score")
    assert [row["`ended`"].strip("`") for row in rows] == list(get_args(Ending))
