"""`evaluate.py strategy=...`: reports are reproducible and independent of ranks and batches; errors in options."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ranks import outputs_of, run_ranks
from trained_folders import TINY_ARCH, randomised, write_run

from config.evaluate_schema import OPTIONS, EvaluateConfig
from dataset.format import SplitWriter, write_identifiers
from evaluate import run_evaluation
from evaluators.evaluation import evaluate
from evaluators.inference import Solver
from evaluators.strategies import STRATEGIES
from evaluators.strategies.build import Choice
from puzzle_dataset import PuzzleDataset
from utils.distributed import World
from utils.errors import UserError
from utils.strict_model import parse

NUM_TEST = 11
SIZES = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1}
STEPS = TINY_ARCH["halt_max_steps"]


def undecided(seed: int):
    """Build a model that halts for about half of its outputs."""
    model = randomised(sizes=SIZES, seed=seed)
    with torch.no_grad():
        said = torch.stack([step.q_halt for step in Solver(model).refine(questions())])
        model.architecture.q_head.bias[0] -= said.median()
    return model


def questions() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 6, (NUM_TEST, 16)).astype(np.int32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Create a run with two checkpoints; labels are answers of the first one in some rows, of the other in the rest."""
    root = tmp_path_factory.mktemp("run")
    models = [undecided(seed) for seed in (0, 1)]
    labels = np.stack([Solver(m).solve(questions()).answer.numpy() for m in models])
    labels = np.where(np.arange(NUM_TEST)[:, None] % 3 == 0, labels[1], labels[0])
    labels[-2:] = 0  # unknown
    for split in ("train", "test"):
        with SplitWriter(
            root / "data" / split, seq_len=16, vocab_size=6, extra={"family": "sudoku"}
        ) as writer:
            for question, answer in zip(questions(), labels, strict=True):
                writer.add_group(question[None], answer[None], np.zeros(1, np.int32))
            writer.close(1)
    write_identifiers(root / "data", ["<blank>"])
    for step, model in zip((20, 10), models, strict=True):
        write_run(
            root / "run",
            model,
            step=step,
            metadata=SIZES,
            data_paths=[str(root / "data")],
            evaluators=[],
            global_batch_size=4,
        )
    return root / "run"


def report_of(run, out, **settings) -> dict:
    values = {"checkpoint": str(run), "device": "cpu", "compile": False, "out": str(out)} | settings
    return run_evaluation(parse(EvaluateConfig, values), World())


def without_times(report: dict) -> dict:
    """Return the part of a report that must not depend on time, processes and batches."""
    kept = {
        key: value
        for key, value in report.items()
        if key not in ("date", "processes", "global_batch_size") and not key.startswith("seconds")
    }
    if "halting" in kept:
        kept["halting"] = {k: v for k, v in kept["halting"].items() if "seconds" not in k}
    return kept


SMALL = {
    "plain": {"halt": True, "checker": True},
    "symmetry": {"symmetries": 3},
    "noise": {"chains": 3, "sigma": 0.5},
    "guess": {"chains": 3},
    "ensemble": {"checkpoint": None, "checkpoints": ["step_20", "step_10"]},
    "ladder": {"symmetries": 2, "chains": 2, "more_steps": 6},
}


def settings_of(strategy: str, run) -> dict:
    settings = {"strategy": strategy} | SMALL[strategy]
    if "checkpoints" in settings:
        settings["checkpoints"] = [str(run / name) for name in settings["checkpoints"]]
    return settings


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_report_in_batches_of_any_size(strategy, run, tmp_path):
    settings = settings_of(strategy, run)
    one = without_times(report_of(run, tmp_path, **settings))
    assert without_times(report_of(run, tmp_path, **settings)) == one
    other = without_times(report_of(run, tmp_path, global_batch_size=11, **settings))
    assert other["curves"] == one["curves"]
    assert other["metrics"] == pytest.approx(one["metrics"])
    assert other.get("rungs") == one.get("rungs")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reports_record_all_conditions(strategy, run, tmp_path):
    report = report_of(run, tmp_path, **settings_of(strategy, run))
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (report["strategy"], report["rows"], report["rows_with_labels"]) == (strategy, 11, 9)
    used = report["options"]
    # All options of the strategy have a value, those of a rung under its name.
    inside = {key for value in used.values() if isinstance(value, dict) for key in value}
    assert STRATEGIES[strategy].options - {"checkpoints"} <= used.keys() | inside
    last = {"plain": "halted", "guess": "rungs", "ladder": "rungs"}.get(strategy, "chains")
    point = report["curves"][last][-1]
    assert point["network_applications"] == report["network_applications_per_puzzle"]
    per_step = TINY_ARCH["H_cycles"] * (TINY_ARCH["L_cycles"] + 1)
    assert point["network_applications"] == pytest.approx(per_step * point["supervision_steps"], abs=1e-3)
    assert point["exact_accuracy"] == pytest.approx(report["rows_solved"] / 9, abs=1e-6)
    assert point["exact_accuracy"] == pytest.approx(report["metrics"]["test/exact_accuracy"], abs=1e-6)
    picture = (tmp_path / f"accuracy_against_compute_{strategy}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    (line,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["test/exact_accuracy"] == report["metrics"]["test/exact_accuracy"]
    assert (line["step"], line["strategy"]) == (20, strategy)


def test_the_curve_has_every_step_including_those_beyond_training(run, tmp_path, capsys):
    report = report_of(run, tmp_path, halt_max_steps=70)
    curve = report["curves"]["steps"]
    assert [row["at"] for row in curve] == [str(step) for step in range(1, 71)]
    model = undecided(0)
    labels = Solver(model).solve(questions()).answer  # of the rows with its own answers
    own = [row for row in range(9) if row % 3]
    for step in Solver(model).refine(questions(), max_steps=70):
        if step.number in (1, 4, 33, 70):
            solved = int((step.answer == labels).all(1)[own].sum())
            stopped = int(step.says_stop.sum())
            assert curve[step.number - 1]["exact_accuracy"] == pytest.approx(solved / 9, abs=1e-6)
            assert curve[step.number - 1]["said_stop"] == pytest.approx(stopped / 11, abs=1e-6)
    printed = capsys.readouterr().out
    assert sum(line.strip().startswith(("1 ", "2 ", "64 ", "70 ")) for line in printed.splitlines()) == 4


@pytest.mark.parametrize("act_inference", [False, True])
def test_the_plain_strategy_has_the_metrics_of_the_evaluation_in_training(act_inference, run, tmp_path):
    arch = {
        "name": "transformers_baseline",
        "hidden_size": 32,
        "num_heads": 4,
        "H_layers": 1,
        "halt_max_steps": 5,
    }
    arch |= {"puzzle_emb_ndim": 32, "forward_dtype": "float32", "act_inference": act_inference}
    model = randomised(arch, SIZES)
    data = str(run.parent / "data")
    folder = write_run(tmp_path / "run", model, arch, metadata=SIZES, data_paths=[data], evaluators=[])
    report = report_of(folder, tmp_path, global_batch_size=4)
    stream = PuzzleDataset([data], "test", global_batch_size=4)
    assert report["metrics"] == pytest.approx(evaluate(model, stream, World(), evaluators={}))
    full = report_of(folder, tmp_path, halt=True, global_batch_size=4)
    same = full["metrics"]["test/exact_accuracy"] == report["metrics"]["test/exact_accuracy"]
    assert same or not act_inference


def test_halting_is_reported_in_addition_to_the_full_run(run, tmp_path, capsys):
    full = report_of(run, tmp_path)
    halted = report_of(run, tmp_path, halt=True)["halting"]
    assert halted["exact_accuracy_of_the_full_run"] == full["curves"]["steps"][-1]["exact_accuracy"]
    assert halted["mean_steps"] == pytest.approx(
        float(
            np.mean([first or STEPS for first in Solver(undecided(0)).solve(questions()).first_stop.tolist()])
        ),
        abs=1e-4,
    )
    assert halted["fewer_network_applications"] == pytest.approx(STEPS / halted["mean_steps"], abs=1e-3)
    assert halted["seconds"] > 0
    assert " times fewer network applications" in (printed := capsys.readouterr().out)
    assert "mean steps" in printed


def test_an_ensemble_uses_all_checkpoints_of_the_run_newest_first_by_default(run, tmp_path):
    report = report_of(run, tmp_path, strategy="ensemble")
    assert report["checkpoints"] == [str(run / "step_20"), str(run / "step_10")]
    first, both = report["curves"]["chains"]
    assert first["exact_accuracy"] == report_of(run, tmp_path)["curves"]["steps"][-1]["exact_accuracy"]
    # All labels are answers of one of the two.
    assert report["curves"]["oracle_pass_at"][-1]["exact_accuracy"] == 1.0
    # Two grids with one vote each: the more confident one wins, which is not always right.
    solved = [Solver(undecided(seed)).solve(questions()) for seed in (0, 1)]
    own = np.arange(NUM_TEST) % 3 == 0  # rows with labels from the second model
    surer = (solved[1].q_halt > solved[0].q_halt).numpy()
    agree = (solved[0].answer == solved[1].answer).all(1).numpy()
    assert both["exact_accuracy"] == pytest.approx(((surer == own) | agree)[:9].mean(), abs=1e-6)
    assert both["exact_accuracy"] < 1.0
    write_run(tmp_path / "one", undecided(0), metadata=SIZES)
    with pytest.raises(UserError, match="this folder has 1 step_N"):
        report_of(tmp_path / "one", tmp_path, strategy="ensemble")


def test_metrics_of_a_ladder_with_a_checker_have_different_names(run, tmp_path):
    report = report_of(run, tmp_path, checker=True, **settings_of("ladder", run))
    assert report["answers_use_the_rules"]
    assert "test/exact_accuracy_with_checker" in report["metrics"]
    assert not any(name == "test/exact_accuracy" for name in report["metrics"])


def test_outputs_that_votes_lack_are_rejected_before_anything_runs(run, tmp_path):
    with pytest.raises(UserError, match=r"logits \(requested by eval_save_outputs"):
        report_of(run, tmp_path, strategy="symmetry", eval_save_outputs=["logits"])
    report_of(run, tmp_path, strategy="symmetry", symmetries=2, eval_save_outputs=["preds", "labels"])
    saved = torch.load(tmp_path / "step_20_all_preds.0", weights_only=True)
    assert saved["preds"].shape == (NUM_TEST, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "vote"}, "strategy"),
        ({"strategy": "symmetry", "symmetries": 1}, "symmetries"),
        (
            {"symmetries": 4},
            r"symmetries has no effect with strategy=plain; it belongs to strategy=symmetry or ladder",
        ),
        ({"strategy": "ensemble", "halt": True}, "halt has no effect with strategy=ensemble"),
        ({"strategy": "symmetry", "sigma": 0.1}, "sigma has no effect with strategy=symmetry"),
        ({"seed": 3}, "seed has no effect with strategy=plain"),
        ({"strategy": "ensemble", "pick": "first_stop"}, "pick=first_stop needs chains in lockstep"),
        (
            {"strategy": "ensemble", "checkpoints": ["a", "b"]},
            "checkpoint names one and checkpoints several",
        ),
        ({"strategy": "ensemble", "step": 10}, "step names one checkpoint"),
        ({"strategy": "noise", "sigma": float("inf")}, "sigma"),
        ({"strategy": "noise", "chains": 0}, "chains"),
        ({"strategy": "ladder", "rungs": []}, "rungs"),
        ({"strategy": "ladder", "rungs": ["steps", "noise", "steps"]}, "given twice"),
        ({"strategy": "ladder", "rungs": ["steps", "noise", "more_steps"]}, "must come right after it"),
        (
            {"strategy": "ladder", "rungs": ["steps"], "sigma": 0.3},
            r"sigma belongs to the rung noise, which rungs=\['steps'\]",
        ),
        ({"strategy": "ladder", "rungs": ["symmetry"], "halt": True}, "halt belongs to the rung steps"),
        (
            {"strategy": "ladder", "rungs": ["steps"], "chains": 3},
            "belongs to the rung noise or guess, which",
        ),
        ({"strategy": "ladder", "rungs": ["guess", "steps"]}, "guess uses the answer of steps"),
        (
            {"strategy": "ladder", "rungs": ["steps", "guess"]},
            "guess needs a halting rule, such as halt=0.98",
        ),
        (
            {"strategy": "ladder", "rungs": ["steps", "guess"], "halt": True, "checker": True},
            "checker=True has no effect on the rung guess",
        ),
        ({"strategy": "guess", "halt": False}, "puzzles that the halting rule leaves unsolved"),
        ({"strategy": "guess", "sigma": 0.1}, "sigma has no effect with strategy=guess"),
        ({"strategy": "ladder", "rungs": ["stairs"]}, "rungs"),
    ],
)
def test_options_without_effect_on_the_strategy_are_rejected_by_name(run, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        report_of(run, tmp_path, **settings)


def test_every_option_reaches_the_strategy():
    assert set(OPTIONS) == Choice.__dataclass_fields__.keys() - {"strategy", "num_steps"}
    assert set(EvaluateConfig.model_fields) >= OPTIONS


def evaluate_and_print(settings: dict) -> None:
    with World.start("cpu") as world:
        report = run_evaluation(EvaluateConfig(**settings), world)
        print("REPORT", json.dumps(without_times(report)))


@pytest.mark.parametrize(
    "strategy", ["plain", "symmetry", "guess", pytest.param("ladder", marks=pytest.mark.slow)]
)
def test_two_processes_give_the_same_report_as_one(strategy, run, tmp_path):
    alone = without_times(report_of(run, tmp_path / "alone", **settings_of(strategy, run)))
    settings = {"checkpoint": str(run), "device": "cpu", "compile": False, "out": str(tmp_path / "two")}
    results = run_ranks(tmp_path, evaluate_and_print, settings | settings_of(strategy, run))
    for output in outputs_of(results):
        line = next(line for line in output.splitlines() if line.startswith("REPORT"))
        both = json.loads(line.removeprefix("REPORT "))
        assert both.pop("metrics") == pytest.approx(alone["metrics"])
        assert both == {key: value for key, value in alone.items() if key != "metrics"}
