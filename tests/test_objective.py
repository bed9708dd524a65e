"""Options of the loss, against hand-computed values: smoothing, halting weight, weights of supervision steps."""

from __future__ import annotations

import math

import pytest
import torch
from smallest import SMALLEST_TRM
from stopped_runs import STOPPED, call_at, terminate
from training_runs import assert_same_run, tiny, train

from models.losses import TOKEN_LOSSES, stablemax
from models.registry import build_model
from training_run import build
from utils.distributed import World
from utils.errors import UserError

SIZES = {"seq_len": 4, "vocab_size": 7, "num_puzzle_identifiers": 1}


def head(**loss):
    torch.manual_seed(0)
    return build_model(SMALLEST_TRM | {"loss": {"name": "losses@ACTLossHead", **loss}}, **SIZES).train()


@pytest.fixture
def outputs() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    logits = 3 * torch.randn(3, 4, 7)
    return {"logits": logits, "preds": logits.argmax(-1), "q_halt_logits": torch.randn(3)}


LABELS = torch.tensor([[1, 2, -100, 4], [3, 3, 3, 3], [-100, -100, 6, 1]])
STEPS = torch.tensor([1, 2, 4], dtype=torch.int32)
HALTED = torch.tensor([False, True, True])


@pytest.mark.parametrize("name", TOKEN_LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_smoothed_loss_is_the_cross_entropy_with_the_smoothed_target(name, smoothing, outputs):
    logits = outputs["logits"].double()
    found = TOKEN_LOSSES[name](outputs["logits"], LABELS, smoothing)
    positive = stablemax(logits) if name.startswith("stablemax") else logits.exp()
    log_p = (positive / positive.sum(-1, keepdim=True)).log()
    for row in range(3):
        for cell in range(4):
            label = int(LABELS[row, cell])
            if label < 0:
                assert found[row, cell] == 0
                continue
            target = torch.full((7,), smoothing / 7, dtype=torch.float64)
            target[label] += 1 - smoothing
            assert float(found[row, cell]) == pytest.approx(-float(target @ log_p[row, cell]), rel=1e-5)


def test_smoothing_has_a_finite_gradient_and_is_disabled_in_evaluation(outputs):
    model = head(label_smoothing=0.3)
    logits = outputs["logits"].requires_grad_()
    loss, metrics = model.loss(outputs, LABELS, HALTED, STEPS)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[LABELS == -100] == 0).all()
    _, plain = head().loss(outputs, LABELS, HALTED, STEPS)
    _, evaluated = model.eval().loss(outputs, LABELS, HALTED, STEPS)
    assert torch.equal(evaluated["lm_loss"], plain["lm_loss"])
    assert metrics["lm_loss"] != plain["lm_loss"]


def test_the_halting_weight_scales_both_halting_losses(outputs):
    outputs |= {"q_continue_logits": torch.randn(3), "target_q_continue": torch.rand(3)}
    for weight in (0.05, 0.5, 0.0):
        loss, metrics = head(q_halt_weight=weight).loss(outputs, LABELS, HALTED, STEPS)
        expected = metrics["lm_loss"] + weight * (metrics["q_halt_loss"] + metrics["q_continue_loss"])
        torch.testing.assert_close(loss, expected)


def test_a_row_without_labels_is_in_no_metric_and_a_q_of_zero_means_solved(outputs):
    labels = LABELS.clone()
    labels[0] = outputs["preds"][0]
    labels[1] = -100
    q_halt = torch.tensor([0.0, 2.0, 0.0])
    loss, metrics = head().loss(outputs | {"q_halt_logits": q_halt}, labels, torch.ones(3) > 0, STEPS)
    cells = labels[2] != -100
    share = float((outputs["preds"][2] == labels[2])[cells].float().mean())
    assert share < 1
    expected = {"count": 2, "accuracy": 1 + share, "exact_accuracy": 1, "q_halt_accuracy": 1, "steps": 5}
    assert {name: float(metrics[name]) for name in expected} == pytest.approx(expected)
    assert loss.isfinite()


def test_a_row_with_one_label_is_judged_by_that_label(outputs):
    labels = torch.full((3, 4), -100)
    labels[:, 2] = outputs["preds"][:, 2]
    _, metrics = head().loss(outputs, labels, torch.ones(3, dtype=torch.bool), STEPS)
    tokens = TOKEN_LOSSES["stablemax_cross_entropy"](outputs["logits"], labels)
    assert metrics["lm_loss"] == pytest.approx(float(tokens[:, 2].sum()))
    assert (metrics["accuracy"], metrics["exact_accuracy"], metrics["count"]) == (3, 3, 3)


def test_with_rules_halting_learns_from_them_and_both_shares_are_reported(outputs):
    """Rows 0 and 1 are right by the rules, but only row 0 equals the label."""
    labels = LABELS.clone()
    labels[0] = outputs["preds"][0]
    questions = torch.tensor([[7] * 4, [7] * 4, [0] * 4])
    by_rules, by_label = head(), head()
    by_rules.judge_by_rules(lambda inputs, answers: (inputs == 7).all(1) & (answers >= 0).all(1))
    every = torch.ones(3, dtype=torch.bool)
    _, metrics = by_rules.loss(outputs | {"inputs": questions}, labels, every, STEPS)
    _, plain = by_label.loss(outputs, labels, every, STEPS)
    assert (metrics["solved"], metrics["exact_accuracy"], metrics["count"]) == (2, 1, 3)
    assert "solved" not in plain
    assert plain["exact_accuracy"] == 1
    q_halt = outputs["q_halt_logits"]
    target = torch.tensor([1.0, 1.0, 0.0])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(q_halt, target, reduction="sum")
    assert float(metrics["q_halt_loss"]) == pytest.approx(float(expected))
    assert float(metrics["q_halt_accuracy"]) == float(((q_halt >= 0) == (target > 0)).sum())
    assert float(plain["q_halt_loss"]) != pytest.approx(float(expected))
    assert by_label.metrics is type(by_label).metrics  # heads do not share changes


def test_rows_are_weighted_by_their_step_in_the_loss_but_not_in_metrics(outputs):
    decay = 0.7
    loss, metrics = head(supervision_decay=decay).loss(outputs, LABELS, HALTED, STEPS)
    _, plain = head().loss(outputs, LABELS, HALTED, STEPS)
    assert {name: float(value) for name, value in metrics.items()} == {n: float(v) for n, v in plain.items()}
    alone = []
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in outputs.items()}
        alone.append(
            float(head().loss(one, LABELS[row : row + 1], HALTED[row : row + 1], STEPS[row : row + 1])[0])
        )
    mean = (1 + 0.7 + 0.49 + 0.343) / 4
    expected = (alone[0] + 0.7 * alone[1] + 0.343 * alone[2]) / mean
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert math.isclose(sum(decay**t / mean for t in range(4)), 4)


def test_the_defaults_are_the_published_loss_exactly(outputs):
    loss, metrics = head().loss(outputs, LABELS, HALTED, STEPS)
    named, _ = head(label_smoothing=0.0, q_halt_weight=0.5, supervision_decay=1.0).loss(
        outputs, LABELS, HALTED, STEPS
    )
    assert torch.equal(loss, named)
    assert torch.equal(loss, metrics["lm_loss"] + 0.5 * metrics["q_halt_loss"])


OPTIONS = [
    [
        "+arch.loss.label_smoothing=0.2",
        "arch.loss.loss_type=softmax_cross_entropy",
        "arch.loss.q_halt_weight=0.05",
    ],
    ["arch.loss.supervision_decay=0.7"],
]


@pytest.mark.parametrize("overrides", OPTIONS, ids=["smoothed", "decaying"])
def test_runs_with_these_loss_options_resume_exactly(identified, tmp_path, monkeypatch, overrides):
    assert train(identified, tmp_path / "reference", *overrides) == 0
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 4, terminate)
        assert train(identified, tmp_path / "run", *overrides) == STOPPED
    assert train(identified, tmp_path / "run", *overrides, resume="auto") == 0
    assert_same_run(tmp_path / "run", tmp_path / "reference")


@pytest.mark.parametrize(
    "bad",
    [
        "label_smoothing=1.0",
        "label_smoothing=-0.1",
        "q_halt_weight=-1",
        "supervision_decay=0",
        "smoothing=0.1",
    ],
)
def test_invalid_settings_are_rejected_with_their_key(identified, tmp_path, bad):
    with pytest.raises(UserError, match=rf"arch\.loss\.{bad.partition('=')[0]}: "):
        build(tiny(identified, tmp_path / "run", f"arch.loss.{bad}"), World())
