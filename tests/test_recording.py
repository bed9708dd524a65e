"""`solve.py trace=FILE`: the recording agrees with what the model computes, and changes nothing."""

from __future__ import annotations

import sys

import numpy as np
import plot_trace
import pytest
import torch
from test_inference import undecided
from test_shipped_weights import HARD
from training_runs import ROOT, run_python

import solve
from evaluators import recording as module
from evaluators.inference import Solver
from evaluators.recording import Recording
from models.architectures import ARCHITECTURES
from models.layers import Attention
from utils.errors import UserError

STEPS = 3


def recorded(name: str, **settings):
    """Return a model, one puzzle, the arrays of a recording, and the outputs of the same steps."""
    model = undecided(name, **settings)
    tokens = torch.full((1, model.architecture.config.seq_len), 2)
    rollout, plain = Solver(model).start(tokens), Solver(model).start(tokens)
    with Recording(model) as recording:
        outputs = [rollout.step() for _ in range(STEPS)]
    expected = [plain.step() for _ in range(STEPS)]
    for one, two in zip(outputs, expected, strict=True):
        assert torch.equal(one.logits, two.logits)  # recording changes nothing
    return model, recording.arrays(), expected, plain


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_recording_ends_in_the_state_and_answer_of_each_step(name):
    model, arrays, expected, plain = recorded(name)
    inner = model.architecture
    assert "f" not in inner.__dict__
    assert arrays["latents"].shape[:2] == (STEPS, Solver(model).applications_per_step())
    assert arrays["updates"].shape == arrays["latents"].shape[1:2]
    for step, output in enumerate(expected):
        assert np.array_equal(arrays["logits"][step, -1], output.logits[0].float().numpy())
        assert arrays["q_halt"][step, -1] == output.q_halt
    # The last update of each latent is the final state; latents that are updated from a sum have no name.
    for latent, value in zip(inner.latents, plain._state, strict=True):
        places = np.flatnonzero(arrays["updates"] == latent)
        if latent == next(iter(inner.latents)) or len(places):
            assert np.array_equal(
                arrays["latents"][-1, places[-1]], value[0].float().numpy().astype(np.float16)
            )
    network = "H_level" if "H_level" in inner.networks else "L_level"  # the one that updates the answer
    attention = {
        each
        for each, part in inner.named_modules()
        if isinstance(part, Attention) and each.startswith(network)
    }
    found = {key.removeprefix("attention.") for key in arrays if key.startswith("attention.")}
    assert found == attention
    for key in found:
        weights = arrays[f"attention.{key}"]
        assert weights.shape[:2] == arrays["logits"].shape[:2]
        assert np.allclose(weights.astype(np.float32).sum(-1), 1, atol=2e-2)


@pytest.mark.parametrize("rotary", [True, False])
def test_the_weights_of_attention_are_those_that_forward_uses(rotary):
    torch.manual_seed(0)
    attention, h = Attention(16, 2), torch.randn(2, 5, 16)
    angles = torch.randn(5, 8)
    cos_sin = (angles.cos(), angles.sin()) if rotary else None
    _, _, v = attention.queries_keys_values(h, cos_sin)
    mixed = (attention.weights(h, cos_sin) @ v).transpose(1, 2).reshape(2, 5, -1)
    torch.testing.assert_close(attention.o_proj(mixed), attention(h, cos_sin))


@pytest.mark.parametrize("loss", ["stablemax_cross_entropy", "softmax_cross_entropy"])
def test_probabilities_are_those_of_the_trained_loss(loss):
    _, arrays, *_ = recorded("trm", loss={"name": "losses@ACTLossHead", "loss_type": loss})
    logits, log_p = (arrays[name].astype(np.float64) for name in ("logits", "log_probabilities"))
    positive = np.where(logits < 0, 1 / (1 - np.minimum(logits, 0)), logits + 1)
    positive = np.exp(logits) if loss.startswith("softmax") else positive
    assert np.allclose(np.exp(log_p), positive / positive.sum(-1, keepdims=True), atol=1e-5)


def test_attention_that_would_be_too_large_is_left_out_with_its_size(monkeypatch):
    monkeypatch.setattr(module, "MAX_ATTENTION_BYTES", 100)
    model = undecided("trm")
    with Recording(model) as recording:
        Solver(model).start(torch.full((1, model.architecture.config.seq_len), 2)).step()
    assert not any(name.startswith("attention") for name in recording.arrays())
    assert "no attention, which would be " in recording.attention_in_words()


def test_several_puzzles_at_once_are_an_error():
    model = undecided("trm")
    with Recording(model), pytest.raises(UserError, match="one puzzle at a time"):
        Solver(model).start(torch.full((2, model.architecture.config.seq_len), 2)).step()
    assert "f" not in model.architecture.__dict__


def test_the_commands_of_the_guide_record_and_plot_a_puzzle(tmp_path, monkeypatch, capsys):
    arguments = [f"checkpoint={ROOT / 'pretrained' / 'sudoku_extreme_cpu'}", f"puzzle={HARD}"]
    path = tmp_path / "new" / "trace.npz"
    solve.main([*arguments, "device=cpu", f"trace={path}"])
    assert f"recorded to {path}: latents (4, " in capsys.readouterr().out
    with np.load(path) as trace:
        arrays = {name: trace[name] for name in trace.files}
    assert arrays["answers"].shape == (4, 81)
    assert np.array_equal(arrays["logits"][:, -1].argmax(-1), arrays["answers"])
    entropy = plot_trace.entropy_by_cell(arrays)
    blank = arrays["question"] == 1
    assert entropy[-1, blank].mean() < entropy[0, blank].mean()
    done = run_python(str(ROOT / "docs" / "plot_trace.py"), str(path), str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {f"{name}.{kind}" for name in ("latents", "entropy") for kind in ("pdf", "svg", "png")}
    assert {each.name for each in (tmp_path / "out").iterdir()} == names


def test_entropy_and_principal_components_are_those_of_known_arrays():
    even = {"log_probabilities": np.full((2, 3, 5, 8), np.log(1 / 8))}
    assert np.allclose(plot_trace.entropy_by_cell(even), np.full((6, 5), 3))
    line = np.outer(np.arange(10.0), [3, 4, 0])
    points, shares = plot_trace.principal_components(line)
    assert np.allclose(np.abs(np.diff(points[:, 0])), 5)
    assert np.allclose(points[:, 1], 0)
    assert shares == pytest.approx([1, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trace=x.txt"], "must end in .npz"),
        (["trace=x.npz", "puzzles=a.txt", "out=b.csv"], "trace= belongs to one puzzle"),
    ],
)
def test_options_that_do_not_fit_are_errors(arguments, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["solve.py"])
    with pytest.raises(UserError, match=message):
        solve.main(["checkpoint=x", *arguments])
