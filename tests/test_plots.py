"""`python -m evaluators.plots`: figures from metrics.jsonl and from one pass over the test puzzles."""

from __future__ import annotations

import io
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_runs import ROOT, run_python, train

from config.report_schema import PlotsConfig, ReportConfig
from evaluators import plots
from evaluators.drawing import curves
from evaluators.drawing.style import NothingToDraw, encoded
from evaluators.reports import run_figures
from trained_run import open_trained
from utils.errors import UserError
from utils.run_records import read_metrics

FIGURES = ("accuracy_by_difficulty", "accuracy_by_step", "curves")


@pytest.fixture(scope="module")
def run(sudoku4x4, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plots") / "run"
    train(sudoku4x4, folder, data_paths=[str(sudoku4x4)])
    return folder


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """Copy the folder of a run, to modify it."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def text_of(figure) -> str:
    """Return all text in a figure."""
    root = ElementTree.fromstring(encoded(figure, "svg"))
    return "\n".join("".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text"))


def lines_of(place) -> dict[str, tuple[list, list]]:
    return {line.get_label(): tuple(map(list, line.get_data())) for line in place.lines}


def test_every_figure_of_a_run_is_drawn_as_pdf_svg_and_png(run, tmp_path, capsys):
    plots.main([f"checkpoint={run}", f"out={tmp_path}", "device=cpu"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png", "svg")
    ]
    for name in FIGURES:
        assert Image.open(tmp_path / f"{name}.png").width > 800
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        ElementTree.parse(tmp_path / f"{name}.svg")
    assert capsys.readouterr().out.count(": pdf, svg and png\n") == 3


def test_the_command_runs_as_a_module_and_reports_errors_without_a_traceback(run, tmp_path):
    done = run_python("-m", "evaluators.plots", f"checkpoint={tmp_path / 'none'}", cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    done = run_python("-m", "evaluators.plots", "--help", cwd=ROOT)
    assert all(f"\n  {key} " in done.stdout for key in PlotsConfig.model_fields)


def test_missing_figures_are_skipped_with_the_reason(copied, tmp_path, capsys):
    (copied / "metrics.jsonl").unlink()
    config = (copied / "all_config.yaml").read_text()
    data = next(line for line in config.splitlines() if "sudoku4x4" in line)
    (copied / "all_config.yaml").write_text(config.replace(data, "- not/here"))
    plots.main([f"checkpoint={copied}", "device=cpu"])
    out = capsys.readouterr().out
    assert "curves left out: there is no metrics.jsonl" in out
    assert "accuracy_by_step and accuracy_by_difficulty left out: not/here" in out
    assert list((copied / "plots").iterdir()) == []
    with pytest.raises(UserError, match="other/place"):
        plots.main([f"checkpoint={copied}", "data_paths_test=[other/place]"])


def test_a_dataset_without_difficulty_has_no_such_figure(run, sudoku4x4, tmp_path, capsys):
    data = Path(shutil.copytree(sudoku4x4, tmp_path / "data"))
    (data / "test" / "all__difficulty.npy").unlink()
    plots.main([f"checkpoint={run}", f"out={tmp_path / 'out'}", f"data_paths_test=[{data}]", "device=cpu"])
    assert "accuracy_by_difficulty left out: the dataset records no difficulty" in capsys.readouterr().out
    assert not (tmp_path / "out" / "accuracy_by_difficulty.png").exists()


def test_the_last_step_over_the_test_puzzles_has_the_accuracy_of_the_evaluation(run):
    (last,) = [record for record in read_metrics(run) if "test/accuracy" in record][-1:]
    config = ReportConfig(checkpoint=str(run), device="cpu")
    (table, num_rows, trained_steps), by_difficulty = run_figures.solve_test_puzzles(
        open_trained(str(run)), config
    )
    assert (num_rows, trained_steps, len(table)) == (13, 3, 3)
    assert table[-1]["token_accuracy"] == pytest.approx(last["test/accuracy"], abs=1e-5)
    assert table[-1]["exact_accuracy"] == pytest.approx(last["test/exact_accuracy"], abs=1e-5)
    classes = by_difficulty.classes()
    assert sum(number for number, _ in classes.values()) == 13
    assert sum(solved for _, solved in classes.values()) == round(13 * last["test/exact_accuracy"])
    assert by_difficulty.unit == "guesses"


def test_limit_and_steps_are_respected(run):
    config = ReportConfig(checkpoint=str(run), device="cpu", limit=5, steps=7)
    (table, num_rows, _), _ = run_figures.solve_test_puzzles(open_trained(str(run)), config)
    assert (num_rows, len(table)) == (5, 7)


# ------------------------------------------------------------------------------ the figures themselves


def record(step: int, time: float, **metrics: float) -> dict:
    return {"step": step, "time": time} | {name.replace("__", "/"): value for name, value in metrics.items()}


RECORDS = [
    record(10, 100.0, train__lr=0.1, train__lm_loss=2.0, train__exact_accuracy=0.0),
    record(20, 105.0, train__lr=0.2, train__lm_loss=1.0, train__exact_accuracy=0.5),
    record(20, 165.0, test__lm_loss=1.5, test__exact_accuracy=0.25),
    record(30, 175.0, train__lr=0.2, train__lm_loss=0.5, train__exact_accuracy=1.0),
    record(40, 180.0, train__lr=0.2, train__lm_loss=0.5, train__exact_accuracy=1.0),
]


def test_curves_show_logged_values_by_step():
    figure = curves.training_curves(RECORDS, global_batch_size=8)
    loss, solved, cells, _, rate, _ = figure.axes
    assert lines_of(loss) == {"train": ([10, 20, 30, 40], [2, 1, 0.5, 0.5]), "test": ([20], [1.5])}
    assert lines_of(solved)["test"] == ([20], [0.25])
    assert list(rate.lines[0].get_ydata()) == [0.1, 0.2, 0.2, 0.2]
    assert [text.get_text() for text in cells.texts] == ["not in metrics.jsonl"]
    words = text_of(figure)
    for word in ("training step", "exact accuracy", "mean supervision steps", "training puzzles per second"):
        assert word in words


def test_throughput_excludes_the_time_of_evaluations():
    steps, puzzles = curves.throughput(RECORDS, global_batch_size=8)
    assert steps.tolist() == [20, 40]
    assert puzzles.tolist() == [16, 16]  # 10 steps of 8 puzzles in 5 seconds


def test_a_long_training_curve_has_a_running_mean():
    records = [record(step, step, train__lm_loss=1.0 + step % 2) for step in range(1, 1001)]
    raw, smooth = curves.training_curves(records, 8).axes[0].lines
    assert np.ptp(raw.get_ydata()) == 1
    assert np.ptp(smooth.get_ydata()[50:-50]) < 0.05


def test_a_running_mean_is_the_mean_of_the_neighbours():
    assert curves.running_mean(np.array([1.0, 2.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.0]


def test_accuracy_by_step_marks_the_trained_steps_and_rejects_unlabelled_rows():
    point = {"exact_accuracy": 0.5, "token_accuracy": 0.9, "said_stop": 0.1}
    table = [{"at": str(step)} | point for step in range(1, 9)]
    figure = curves.accuracy_by_step(table, num_rows=100, trained_steps=4)
    assert "steps in training" in text_of(figure)
    assert "100 test puzzles" in text_of(figure)
    assert "steps in training" not in text_of(curves.accuracy_by_step(table, 100, trained_steps=8))
    with pytest.raises(NothingToDraw, match="labels"):
        curves.accuracy_by_step([row | {"exact_accuracy": None} for row in table], 0, 4)


def test_accuracy_by_difficulty_shows_the_number_of_puzzles_per_class():
    figure = curves.accuracy_by_difficulty({"0": (40, 30), "1-5": (0, 0), "over 100": (1000, 10)}, "guesses")
    words = text_of(figure)
    assert "n = 40" in words
    assert "n = 1,000" in words
    assert "difficulty: guesses" in words
    assert "1-5" not in words
    with pytest.raises(NothingToDraw):
        curves.accuracy_by_difficulty({"0": (0, 0)}, "guesses")


def test_the_same_numbers_give_the_same_files():
    for kind in ("pdf", "png", "svg"):
        one, two = (encoded(curves.training_curves(RECORDS, 8), kind) for _ in range(2))
        assert one == two
    assert Image.open(io.BytesIO(encoded(curves.training_curves(RECORDS, 8), "png"))).format == "PNG"


def test_metrics_are_read_up_to_a_partial_line_and_broken_lines_are_reported(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "a": 1.0, "b": None}) + '\n{"step": 2, "a')
    assert read_metrics(tmp_path) == [{"step": 1, "a": 1.0}]
    path.write_text('{"step": 2, "a\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl line 1: is not valid JSON"):
        read_metrics(tmp_path)
    path.write_text("3\n")
    with pytest.raises(UserError, match="line 1 has no step"):
        read_metrics(tmp_path)
