"""benchmarks/recipes.py: results of a run, the printed table, and continuing after an interruption."""

from __future__ import annotations

import json

import pytest
from training_runs import ROOT, run_python, tiny

from benchmarks import recipes
from training_run import build
from utils.distributed import World


def line(step: int, time: float, share: float | None = None) -> str:
    return json.dumps(
        {"step": step, "time": time} | ({} if share is None else {"test/exact_accuracy": share})
    )


def test_training_time_excludes_evaluations_and_includes_the_first_interval(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        line(5, 100),
        line(10, 110),
        line(12, 114),
        line(12, 214, 0.25),
        line(15, 220),
        line(24, 238),
        line(24, 300, 0.75),
    ]
    path.write_text("\n".join(lines) + "\n")
    assert recipes.evaluations(path) == [(12, 24.0, 0.25), (24, 48.0, 0.75)]
    assert recipes.evaluations(tmp_path / "none") == []


def test_the_table_shows_medians_spread_and_unreached_thresholds():
    def record(recipe: str, *points) -> dict:
        return {"recipe": recipe, "evaluations": list(points)}

    results = [
        record("baseline", (10, 5.0, 0.5), (20, 10.0, 0.91)),
        record("baseline", (10, 7.0, 0.4), (20, 12.0, 0.6)),
        record("baseline", (10, 6.0, 0.7), (20, 11.0, 0.99)),
        record("muon", (10, 5.0, 0.98)),
    ]
    _, _, baseline, muon = recipes.table(results)
    assert baseline == (
        "| baseline | 3 | 6 (5 to 12); 10 (10 to 20) | 10 (10 to 11); 20 (20 to 20) (2 of 3) | "
        "11; 20 (1 of 3) | 91.0 (60.0 to 99.0)% | 0.550 (0.500 to 0.600) |"
    )
    assert muon == "| muon | 1 | 5; 10 | 5; 10 | 5; 10 | 98.0% | 0.500 |"


def test_seconds_of_another_machine_are_scaled_by_its_baseline():
    def record(recipe: str, machine: str, seconds: float) -> dict:
        return {"recipe": recipe, "machine": machine, "evaluations": [(10, seconds, 0.5)]}

    results = [
        record("baseline", "here", 4.0),
        record("baseline", "here", 5.0),
        record("baseline", "here", 6.0),
        record("baseline", "slow", 20.0),
        record("muon", "slow", 24.0),
        record("muon", "nowhere", 7.0),
    ]
    _, _, baseline, muon = recipes.table(results)
    assert baseline.startswith("| baseline | 4 | 5 (4 to 6); 10 (10 to 10) |")
    assert muon.startswith("| muon | 2 | 6 (6 to 7); 10 (10 to 10) |")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_a_config_that_builds_and_changes_something(sudoku4x4, tmp_path, name):
    small = ["arch.hidden_size=16", "arch.num_heads=2"]
    epochs = {"epochs": 48, "eval_interval": 3}
    baseline, config = (
        tiny(sudoku4x4, tmp_path / "run", *recipes.COMMON, *overrides, *small, **epochs)
        for overrides in ([], recipes.RECIPES[name])
    )
    assert (config.model_dump() == baseline.model_dump()) == (name == "baseline")
    build(config, World())


@pytest.mark.slow
def test_an_interrupted_benchmark_continues_with_missing_runs(sudoku4x4, tmp_path):
    small = [
        "arch.hidden_size=16",
        "arch.num_heads=2",
        "arch.halt_max_steps=2",
        "epochs=8",
        "eval_interval=4",
        "log_interval=2",
    ]
    options = [
        "--folder",
        str(tmp_path / "r"),
        "--data",
        str(sudoku4x4),
        "--only",
        "muon",
        "baseline",
        "--override",
        *small,
    ]

    def benchmark(*more: str) -> str:
        done = run_python(str(ROOT / "benchmarks" / "recipes.py"), *options, *more, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    benchmark("--seeds", "1")
    first = (tmp_path / "r" / "muon-0.json").stat().st_mtime_ns
    again = benchmark("--seeds", "2")
    assert (tmp_path / "r" / "muon-0.json").stat().st_mtime_ns == first
    assert "muon, seed 1: " in again
    assert "muon, seed 0: " not in again
    results = json.loads((tmp_path / "r" / "all" / "results.json").read_text())
    assert {(r["recipe"], r["seed"]) for r in results} == {
        (n, s) for n in ("muon", "baseline") for s in (0, 1)
    }
    assert all(r["ended"] == "finished" and len(r["evaluations"]) == 2 for r in results)
    assert benchmark("--table").count("| baseline | 2 |") == 1


def test_a_benchmark_without_seeds_is_rejected(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["recipes.py", "--seeds", "0"])
    with pytest.raises(SystemExit):
        recipes.main()
    assert "--seeds is 0, but must be at least 1" in capsys.readouterr().err
