"""`python -m evaluators.plots runs=[...]`: groups of runs, their medians and bands, and what is written."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from training_runs import train

from config.report_schema import PlotsConfig
from evaluators import plots
from evaluators.drawing.overlay import overlay
from evaluators.drawing.style import KINDS, encoded
from evaluators.reports.run_groups import differing, grouped, read_run, summarised
from evaluators.score import wilson_interval
from utils.errors import UserError
from utils.strict_model import parse

STEPS = (100, 200, 300)


def write_run(folder: Path, shares: dict[int, float], *, lr: float = 1e-3, seed: int = 0, **arch) -> Path:
    """Write the config and metrics of a run, with an evaluation at each step of `shares`."""
    folder.mkdir()
    config = {
        "seed": seed,
        "lr": lr,
        "run_name": folder.name,
        "data_paths": ["not/here"],
        "data_paths_test": [],
        "arch": {"name": "trm", **arch},
    }
    (folder / "all_config.yaml").write_text(yaml.safe_dump(config))
    lines = []
    for step, share in shares.items():
        lines.append({"step": step, "train/flops": 1e12 * step, "train/seconds": 6.0 * step})
        lines.append({"step": step, "test/exact_accuracy": share, "test/lm_loss": 2 - share})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def shares(*values: float) -> dict[int, float]:
    return dict(zip(STEPS, values, strict=True))


@pytest.fixture
def five(tmp_path) -> list[Path]:
    """Three seeds with two L-cycles, the last of them longer, and two with four."""
    return [
        write_run(tmp_path / "a", shares(0.1, 0.2, 0.6), seed=0, L_cycles=2),
        write_run(tmp_path / "b", shares(0.3, 0.4, 0.5), seed=1, L_cycles=2),
        write_run(tmp_path / "c", shares(0.2, 0.9, 0.7) | {400: 0.9}, seed=2, L_cycles=2),
        write_run(tmp_path / "d", shares(0.5, 0.6, 0.7), seed=0, L_cycles=4),
        write_run(tmp_path / "e", shares(0.7, 0.8, 0.9), seed=1, L_cycles=4),
    ]


def read(folders: list[Path]):
    return [read_run(str(folder)) for folder in folders]


def draw(capsys, folders: list[Path], *arguments: str) -> str:
    plots.main([f"runs=[{','.join(map(str, folders))}]", *arguments])
    return capsys.readouterr().out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_are_a_median_with_their_range_in_every_file(five, tmp_path, capsys):
    out = draw(capsys, five, "by=arch.L_cycles", f"out={tmp_path / 'out'}")
    assert out.splitlines()[:2] == ["L_cycles = 2: range of 3 runs", "L_cycles = 4: range of 2 runs"]
    name = "accuracy_by_arch.L_cycles"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}.{kind}" for kind in (*KINDS, "csv")
    }
    rows = rows_of(tmp_path / "out" / f"{name}.csv")
    two = [row for row in rows if row["group"] == "L_cycles = 2"]
    drawn = [tuple(float(row[key]) for key in ("step", "accuracy", "low", "high")) for row in two]
    assert drawn == [(100, 0.2, 0.1, 0.3), (200, 0.4, 0.2, 0.9), (300, 0.6, 0.5, 0.7)]  # not at step 400
    assert [float(row["accuracy"]) for row in rows[3:]] == pytest.approx([0.6, 0.7, 0.8])
    assert {row["band"] for row in two} == {"range of 3 runs"}


@pytest.mark.parametrize("x", ["flops", "minutes"])
def test_the_axis_may_be_the_cost_of_the_training(five, tmp_path, capsys, x):
    draw(capsys, five, f"x={x}", "panel=loss", "by=arch.L_cycles", f"out={tmp_path / 'out'}")
    rows = rows_of(tmp_path / "out" / f"loss_by_arch.L_cycles_{x}.csv")
    factor = {"flops": 1e12, "minutes": 0.1}[x]
    assert [float(row[x]) for row in rows] == pytest.approx([factor * int(row["step"]) for row in rows])
    assert float(rows[0]["loss"]) == pytest.approx(1.8)


def test_without_a_key_runs_that_differ_in_the_seed_alone_are_a_group(five, tmp_path):
    other = write_run(tmp_path / "f", shares(0, 0, 0), lr=1e-4, L_cycles=4)
    groups, notices = grouped(read([*five, other]), None)
    assert {label: len(runs) for label, runs in groups.items()} == {
        "L_cycles = 2, lr = 0.001": 3,
        "L_cycles = 4, lr = 0.001": 2,
        "L_cycles = 4, lr = 0.0001": 1,
    }
    assert notices == []


def test_a_group_whose_runs_differ_in_more_than_the_seed_is_named(five, tmp_path):
    other = write_run(tmp_path / "f", shares(0, 0, 0), lr=1e-4, L_cycles=4)
    _, notices = grouped(read([*five, other]), "arch.L_cycles")
    assert notices == ["L_cycles = 4: its runs also differ in lr, so the band is not that of the seed alone"]
    assert differing(read(five)) == ["arch.L_cycles"]


def test_groups_are_in_the_order_of_their_numbers(tmp_path):
    runs = [write_run(tmp_path / str(n), shares(0, 0, 0), L_cycles=n) for n in (10, 2, 4)]
    groups, _ = grouped(read(runs), "arch.L_cycles")
    assert list(groups) == ["L_cycles = 2", "L_cycles = 4", "L_cycles = 10"]


def test_a_single_run_has_the_interval_of_its_test_puzzles(five):
    (run,) = read(five[:1])
    curve = summarised("a", [run], "accuracy", "test", "step", 50)
    assert curve.band == "95% interval, 50 puzzles"
    assert (curve.low[0], curve.high[0]) == pytest.approx(wilson_interval(5, 50))
    unknown = summarised("a", [run], "accuracy", "test", "step", None)
    assert (unknown.band, unknown.low.tolist()) == ("", unknown.middle.tolist())


def test_the_test_puzzles_of_a_run_on_this_machine_are_counted(sudoku4x4, tmp_path, capsys):
    train(sudoku4x4, tmp_path / "run")
    out = draw(capsys, [tmp_path / "run"], f"out={tmp_path / 'out'}")
    assert "run: 95% interval, 13 puzzles" in out


def test_the_figure_has_the_size_and_plain_labels_that_were_asked_for(five):
    curves = [summarised("all", read(five[:3]), "accuracy", "test", "flops", None)]
    figure = overlay(curves, "accuracy", "test", "flops", width=3.0, font_size=7)
    assert figure.get_size_inches().tolist() == pytest.approx([3.0, 2.16])
    (ax,) = figure.axes
    assert ax.xaxis.label.get_fontsize() == 7
    root = ElementTree.fromstring(encoded(figure, "svg"))
    words = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "100%" in words
    assert "all (3 runs)" in words
    assert np.allclose(ax.lines[0].get_xdata(), [100, 200, 300])  # in 10^12
    assert ax.get_ylim()[0] < 0 < 1 < ax.get_ylim()[1]
    assert len(ax.collections) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either checkpoint=RUN"),
        ({"checkpoint": "x", "runs": ["y"]}, "give either checkpoint=RUN"),
        ({"checkpoint": "x", "by": "lr", "width": 3}, "by, width: has an effect only with runs="),
        ({"runs": ["x"], "limit": 5}, "limit: has an effect only with checkpoint="),
    ],
)
def test_options_without_an_effect_are_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        parse(PlotsConfig, arguments)


def test_wrong_runs_and_keys_are_named(five, tmp_path, capsys):
    with pytest.raises(UserError, match=r"none is not the folder of a run"):
        draw(capsys, [tmp_path / "none"])
    with pytest.raises(UserError, match=r"by=L_cycles: .*did you mean arch\.L_cycles"):
        draw(capsys, five, "by=L_cycles")
    with pytest.raises(UserError, match=r"panel=steps: .* has logged no test/steps"):
        draw(capsys, five, "panel=steps")
    with pytest.raises(UserError, match=r"x=puzzles: .* has logged no train/puzzles"):
        draw(capsys, five, "x=puzzles")
    short = write_run(tmp_path / "f", {50: 0.5}, seed=7, L_cycles=4)
    with pytest.raises(UserError, match=r"L_cycles = 4: its runs have no evaluation at the same step"):
        draw(capsys, [*five, short], "by=arch.L_cycles")
    many = [write_run(tmp_path / f"m{n}", shares(0, 0, 0), L_cycles=n) for n in range(1, 10)]
    with pytest.raises(UserError, match="9 groups, and a panel shows at most 8"):
        draw(capsys, many, "by=arch.L_cycles")


def test_the_png_is_for_print(five, tmp_path, capsys):
    draw(capsys, five, "by=arch.L_cycles", "width=3.25", f"out={tmp_path / 'out'}")
    assert Image.open(tmp_path / "out" / "accuracy_by_arch.L_cycles.png").width == 975
