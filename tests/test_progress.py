"""Progress of training and evaluation on a terminal and in log files, with a fake clock."""

import io
import re
import sys

import pytest
from training_runs import train

from utils import progress as progress_module
from utils.distributed import World
from utils.loggers.console import ConsoleLogger
from utils.progress import Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _no_line_before(monkeypatch):
    monkeypatch.setattr(Progress, "_last_line_at", None)


def run_for(progress: Progress, clock: Clock, seconds: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        progress.update()


def test_without_a_terminal_there_is_a_line_soon_and_then_every_thirty_seconds(capsys):
    clock = Clock()
    progress = Progress("train", "step", World(), total=1200, clock=clock)
    run_for(progress, clock, 4)
    assert capsys.readouterr().out == ""
    console = ConsoleLogger(pytest.fail, progress)
    console.log({"train/lm_loss": 0.51239, "train/exact_accuracy": 0.25, "train/lr": 1e-4}, step=4)
    run_for(progress, clock, 96)
    assert capsys.readouterr().out.splitlines() == [
        "train: step 5 of 1,200, loss 0.5124, exact 0.25, lr 0.0001, 19:55 left",
        "train: step 35 of 1,200, loss 0.5124, exact 0.25, lr 0.0001, 19:25 left",
        "train: step 65 of 1,200, loss 0.5124, exact 0.25, lr 0.0001, 18:55 left",
        "train: step 95 of 1,200, loss 0.5124, exact 0.25, lr 0.0001, 18:25 left",
    ]


def test_time_left_excludes_the_first_step_and_steps_before_a_resume(capsys):
    clock = Clock()
    progress = Progress("train", "step", World(), initial=100, clock=clock)
    progress.total = 122
    clock.now += 1000  # compiling
    progress.update()
    assert capsys.readouterr().out == "train: step 101 of 122\n"
    clock.now += 60
    progress.update()
    assert capsys.readouterr().out == "train: step 102 of 122, 20:00 left\n"


def test_a_training_and_its_evaluations_share_the_thirty_seconds(capsys):
    clock = Clock()
    training = Progress("train", "step", World(), total=1000, clock=clock)
    run_for(training, clock, 6)
    evaluation = Progress("evaluate", "batch", World(), total=100, clock=clock)
    run_for(evaluation, clock, 40)
    run_for(training, clock, 18)
    names = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["train", "evaluate"]


def test_a_terminal_shows_a_bar_and_no_lines_and_other_ranks_show_nothing(monkeypatch, capsys):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    clock = Clock()
    for rank in (0, 1):
        progress = Progress("train", "step", World(rank=rank, size=2), total=100, clock=clock)
        run_for(progress, clock, 50)
        progress.close()
        assert capsys.readouterr().out == ""
        assert ("train:" in terminal.getvalue()) == (rank == 0)
        terminal.seek(0)
        terminal.truncate()


def test_a_training_and_its_evaluation_report_progress(identified, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress_module, "FIRST_LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    train(identified, tmp_path)
    out = capsys.readouterr().out
    assert re.search(
        r"^train: step \d+ of \d+, loss [\d.]+(, exact [\d.]+)?, lr [\d.e-]+, \d\d:\d\d left$", out, re.M
    )
    assert re.search(r"^evaluate: batch 1 of \d+", out, re.M)
    assert "eager" not in out
