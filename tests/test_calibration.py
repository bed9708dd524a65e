"""The calibrated stop rule: how it is chosen, on which rows, and when a saved one is not used."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from trained_folders import TINY_ARCH, randomised, write_run

from config.evaluate_schema import EvaluateConfig
from dataset.families import family_of
from dataset.format import Metadata, SplitWriter, open_split, write_identifiers
from evaluate import run_evaluation
from evaluators.calibration import (
    MAX_LOSS,
    Calibration,
    CalibrationRows,
    Trajectories,
    choose_rule,
    generated_rows,
    rows_of_splits,
    weights_sha256,
)
from evaluators.inference import Solver
from evaluators.stop_rule import StopRule, steps_since_change
from models.losses import ACTLossHead
from utils.distributed import World
from utils.errors import UserError
from utils.strict_model import parse

SIZES = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1}
SUDOKU = Metadata(0, 0, 0, 6, 16, 1, 1, 1.0, 1, ("all",), {"family": "sudoku"})
STEPS = TINY_ARCH["halt_max_steps"]
NUM_ROWS = 600

# ------------------------------------------------------------------------------ the choice


def overconfident(num_rows: int = 2000) -> Trajectories:
    """Answers that are right from step 2 with margin 3, and wrong at step 1, sometimes with margin 1."""
    margins = np.full((6, num_rows), 3.0, np.float32)
    margins[0] = np.where(np.arange(num_rows) % 7 == 0, 1.0, -1.0)
    solved = np.ones((6, num_rows), bool)
    solved[0] = False
    still = np.maximum(np.arange(6) - 1, 0)[:, None].repeat(num_rows, 1)
    return Trajectories(margins, still, solved)


def test_the_rule_is_stricter_than_the_models_own():
    chosen = choose_rule(overconfident())
    assert 1.0 <= chosen.rule.threshold < 3.0
    assert chosen.rule.patience == 0
    assert (chosen.lost, chosen.gained, chosen.mean_steps) == (0, 0, 2.0)
    assert chosen.solved_by_all_steps == 2000


def test_patience_is_used_if_margins_are_uninformative():
    seen = replace(overconfident(), margins=np.full((6, 2000), -1.0, np.float32))
    chosen = choose_rule(seen)
    assert chosen.rule == StopRule(-math.inf, 1)
    assert chosen.mean_steps == 3.0  # the answer of step 2, repeated


def test_the_cheapest_rule_equals_that_of_an_exhaustive_search():
    rng = np.random.default_rng(3)
    steps, rows = 5, 1500
    right_from = rng.integers(0, steps + 1, rows)
    solved = np.arange(steps)[:, None] >= right_from
    margins = np.where(solved, rng.normal(1.5, 1, (steps, rows)), rng.normal(-1.5, 1, (steps, rows)))
    still = steps_since_change(np.where(solved, 7, rng.integers(0, 3, (steps, rows)))[..., None])
    seen = Trajectories(margins.astype(np.float32), still, solved)
    chosen = choose_rule(seen)

    def price(rule: StopRule) -> tuple[int, float]:
        lost, spent = 0, 0
        for row in range(rows):
            stop = next(
                (
                    t
                    for t in range(steps)
                    if margins[t, row] > rule.threshold and still[t, row] >= rule.patience
                ),
                steps - 1,
            )
            spent += stop + 1
            lost += solved[-1, row] and not solved[stop, row]
        return lost, spent / rows

    lost, mean_steps = price(chosen.rule)
    assert (chosen.lost, chosen.mean_steps) == (lost, pytest.approx(mean_steps))
    assert (lost + 1) / (rows + 2) <= MAX_LOSS
    assert 1 < mean_steps < steps
    for patience in range(steps):
        for threshold in np.linspace(-1, 5, 13):
            lost, mean_steps = price(StopRule(float(threshold), patience))
            if (lost + 1) / (rows + 2) <= MAX_LOSS:
                assert mean_steps > chosen.mean_steps - 0.05  # thresholds are chosen among 256


def test_if_every_rule_costs_too_much_all_steps_are_run():
    rng = np.random.default_rng(0)
    solved = np.zeros((4, 2000), bool)
    solved[-1] = True
    seen = Trajectories(rng.normal(size=(4, 2000)).astype(np.float32), np.zeros((4, 2000), np.int64), solved)
    chosen = choose_rule(seen)
    assert (chosen.rule, chosen.mean_steps, chosen.lost) == (None, 4.0, 0)


def test_for_a_model_that_solves_nothing_all_steps_are_run():
    seen = overconfident()
    chosen = choose_rule(replace(seen, solved=np.zeros_like(seen.solved)))
    assert (chosen.rule, chosen.solved_by_all_steps, chosen.mean_steps) == (None, 0, len(seen.solved))


def test_too_few_rows_without_loss_are_insufficient():
    seen = overconfident(400)
    assert choose_rule(seen).rule is None
    assert choose_rule(overconfident(500)).rule is not None


def test_steps_are_counted_since_the_last_change():
    answers = np.array([1, 1, 1, 2, 2, 1])[:, None, None].repeat(3, 1)
    assert steps_since_change(answers)[:, 0].tolist() == [0, 1, 2, 0, 1, 0]


# ------------------------------------------------------------------------------ rows


def write_rows(folder, questions: np.ndarray, labels: np.ndarray, split: str) -> None:
    with SplitWriter(folder / split, seq_len=16, vocab_size=6, extra={"family": "sudoku"}) as writer:
        for question, answer in zip(questions, labels, strict=True):
            writer.add_group(question[None], answer[None], np.zeros(1, np.int32))
        writer.close(1)


def some_rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 6, (count, 16)).astype(np.int32)


def test_generated_rows_are_valid_distinct_and_reproducible():
    family = family_of(SUDOKU)
    rows = generated_rows(family, World(), 60)
    assert len({question.tobytes() for question in rows.questions}) == len(rows) == 60
    assert family.check(rows.questions, rows.labels).all()
    assert np.array_equal(generated_rows(family, World(), 60).questions, rows.questions)


def test_rows_are_labelled_and_occur_neither_in_train_nor_in_test(tmp_path):
    questions, labels = some_rows(40, 0), some_rows(40, 1)
    labels[::4] = 0  # unknown
    write_rows(tmp_path / "own", questions, labels, "train")
    rows = rows_of_splits([str(tmp_path / "own" / "train")], SIZES)
    assert np.array_equal(rows.questions, questions[np.arange(40) % 4 > 0])
    write_rows(tmp_path / "other", questions[5:15], labels[5:15] % 5 + 1, "test")
    kept = rows.without([open_split(tmp_path / "other", "test")])
    assert kept.left_out == len(rows) - len(kept) == sum(row % 4 > 0 for row in range(5, 15))
    assert not {q.tobytes() for q in kept.questions} & {q.tobytes() for q in questions[5:15]}
    with pytest.raises(UserError, match="has vocab_size 6, but the model 7"):
        rows_of_splits([str(tmp_path / "own" / "train")], SIZES | {"vocab_size": 7})


# ------------------------------------------------------------------------------ saved and stale rules


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run whose labels are its own answers after all steps, and rows to calibrate on."""
    root = tmp_path_factory.mktemp("run")
    model = randomised_model()
    for folder, split, count, seed in (
        ("data", "train", 9, 0),
        ("data", "test", 30, 1),
        ("held", "train", 600, 2),
    ):
        questions = some_rows(count, seed)
        write_rows(root / folder, questions, Solver(model).solve(questions).answer.numpy(), split)
    for folder in ("data", "held"):
        write_identifiers(root / folder, ["<blank>"])
    metadata = SIZES | {"family": "sudoku"}
    write_run(root / "run", model, metadata=metadata, data_paths=[str(root / "data")], evaluators=[])
    return root / "run"


def report_of(run, out, **settings) -> dict:
    values = {"checkpoint": str(run), "device": "cpu", "compile": False, "out": str(out), "halt": "auto"}
    return run_evaluation(parse(EvaluateConfig, values | settings), World())


def test_the_rule_is_saved_and_replaced_for_other_steps_or_weights(run, tmp_path, capsys):
    held = f"{run.parent / 'held'}/train"
    first = report_of(run, tmp_path, calibrate_on=[held])
    assert f"from {held}" in capsys.readouterr().out
    saved = json.loads((run / "halting_step_10.json").read_text())
    assert saved == first["calibration"]
    assert (saved["rows"], saved["rows_left_out"], saved["num_steps"]) == (NUM_ROWS, 0, STEPS)
    assert saved["weights_sha256"] == weights_sha256(randomised_state(run))
    assert first["curves"].keys() == {"halted"}
    assert "halting" not in first

    again = report_of(run, tmp_path)  # no rows named, and none generated
    assert again["calibration"] == saved
    assert again["metrics"] == first["metrics"]
    assert "not used" not in capsys.readouterr().out

    other = report_of(run, tmp_path, halt_max_steps=3, calibrate_on=[held])
    assert other["calibration"]["num_steps"] == 3
    capsys.readouterr()
    stale = Calibration(**other["calibration"] | {"weights_sha256": "0" * 64, "num_steps": STEPS})
    (run / "halting_step_10.json").write_text(stale.model_dump_json())
    with pytest.raises(UserError, match="at least 498 are needed"):
        report_of(run, tmp_path, calibrate_on=[f"{run.parent / 'data'}/train"])  # rows of train
    ladder = report_of(run, tmp_path, strategy="ladder", rungs=["steps", "more_steps"])
    printed = capsys.readouterr().out
    assert "not used, because it was chosen for other weights" in printed
    assert ladder["calibration"]["weights_sha256"] == saved["weights_sha256"]
    assert ladder["calibration"]["source"] == "generated by the family sudoku"
    # The model is random and solves none of these puzzles: no rule is used, and none replaces the file.
    assert ladder["calibration"]["patience"] is None
    assert "the model solves none of" in printed
    assert json.loads((run / "halting_step_10.json").read_text()) == stale.model_dump()


@pytest.mark.parametrize("act_inference", [False, True])
def test_a_probability_stops_rows_whose_q_halt_exceeds_its_logit(run, tmp_path, act_inference):
    questions = some_rows(30, 1)
    margins = np.stack([step.q_halt.numpy() for step in Solver(randomised_model()).refine(questions)])
    threshold = float(np.quantile(margins, 0.7))
    expected = np.where((over := margins > threshold).any(0), over.argmax(0) + 1, STEPS)
    assert 1 < expected.mean() < STEPS
    probability = 1 / (1 + math.exp(-threshold))
    folder = run
    if act_inference:  # the model stops by its own rule unless halt= is given
        arch, metadata = TINY_ARCH | {"act_inference": True}, SIZES | {"family": "sudoku"}
        folder = write_run(
            tmp_path / "run", randomised_model(), arch, metadata=metadata, data_paths=["none"], evaluators=[]
        )
    data = {"data_paths_test": [f"{run.parent / 'data'}"]}
    report = report_of(folder, tmp_path / "out", halt=probability, **data)
    (point,) = report["curves"]["halted"]
    assert point["supervision_steps"] == pytest.approx(expected.mean(), abs=1e-4)
    assert report["options"]["halt"] == probability
    assert "calibration" not in report or report["calibration"] is None


def test_rows_of_the_evaluated_test_split_are_not_calibrated_on(run, tmp_path):
    questions = some_rows(600, 2)[:20]  # of the held rows
    write_rows(tmp_path / "other", questions, questions, "test")
    write_identifiers(tmp_path / "other", ["<blank>"])
    settings = {
        "calibrate_on": [f"{run.parent / 'held'}/train"],
        "data_paths_test": [str(tmp_path / "other")],
    }
    report = report_of(run, tmp_path, **settings)
    assert report["calibration"]["rows_left_out"] == 20
    (run / "halting_step_10.json").unlink()


def randomised_model() -> ACTLossHead:
    """The model of `run`."""
    model = randomised(sizes=SIZES)
    with torch.no_grad():
        model.architecture.q_head.bias[0] = 0
    return model


def randomised_state(run) -> dict[str, torch.Tensor]:
    return torch.load(run / "step_10", weights_only=True)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"weights_sha256": "1" * 64}, "other weights"),
        ({"num_steps": 5}, "for 5 steps, not 4"),
        ({"forward_dtype": "bfloat16"}, "for bfloat16, not float32"),
        ({"solved_by_all_steps": 0}, "solved none"),
        ({}, None),
    ],
)
def test_a_rule_is_stale_for_other_weights_steps_or_dtype(changed, reason):
    kept = {
        "threshold": None,
        "patience": 2,
        "num_steps": 4,
        "forward_dtype": "float32",
        "weights_sha256": "0" * 64,
        "source": "of somewhere",
        "rows": 600,
        "rows_left_out": 1,
        "solved_by_all_steps": 500,
        "lost": 0,
        "gained": 0,
        "mean_steps": 2.5,
    }
    calibration = Calibration(**kept | changed)
    assert calibration.rule == StopRule(-math.inf, 2)
    found = calibration.stale_because("0" * 64, 4, "float32")
    assert (found is None) == (reason is None)
    assert reason is None or reason in found


def test_a_damaged_rule_is_reported(run, tmp_path):
    path = run / "halting_step_10.json"
    path.write_text('{"threshold": 1}')
    with pytest.raises(UserError, match=r"halting_step_10.json: holds no calibrated stop rule \(patience"):
        report_of(run, tmp_path)
    path.unlink()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"halt": True, "calibrate_on": ["x/train"]}, "calibrate_on belongs to halt=auto"),
        ({"checker": True}, "checker=True looks at every step of a full run"),
        ({"strategy": "symmetry", "halt": True, "checker": True}, "checker=True looks at every step"),
        ({"strategy": "ensemble"}, "halt has no effect with strategy=ensemble"),
        ({"calibrate_on": ["nowhere/train"]}, "nowhere"),
        ({"halt": "often"}, "halt"),
        ({"halt": 1.5}, "halt.*less than 1"),
        ({"halt": 0.9, "checker": True}, "checker=True looks at every step"),
    ],
)
def test_contradictory_settings_are_rejected(run, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        report_of(run, tmp_path, **settings)


def test_all_rows_are_kept_without_splits():
    rows = CalibrationRows(some_rows(5, 0), some_rows(5, 1), np.zeros(5, np.int32), "of here")
    assert len(rows.without([])) == 5
