"""Parity of building blocks with `misc.npz`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load

from models.layers import RotaryEmbedding, swiglu_width, truncated_normal_
from models.losses import softmax_cross_entropy, stablemax, stablemax_cross_entropy
from models.ops import rms_norm, rotate
from models.optim.adam_atan2 import AdamATan2
from models.optim.schedule import learning_rate
from models.optim.sparse_sign_sgd import SparseSignSGD
from models.puzzle_embedding import PuzzleEmbedding


@pytest.fixture(scope="module")
def misc():
    return load("misc")


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def test_stablemax_and_its_cross_entropy_match(misc):
    logits = tensor(misc["stablemax/logits"]).requires_grad_()
    labels = tensor(misc["stablemax/labels"])
    np.testing.assert_allclose(stablemax(logits.detach().double()), misc["stablemax/s_float64"], atol=1e-9)
    loss = stablemax_cross_entropy(logits, labels)
    np.testing.assert_allclose(loss.detach(), misc["stablemax/cross_entropy"], atol=1e-5)
    loss.sum().backward()
    np.testing.assert_allclose(logits.grad, misc["stablemax/grad_of_sum"], atol=1e-5)


def test_stablemax_has_slope_one_at_zero():
    zero = torch.zeros(1, requires_grad=True)
    stablemax(zero).backward()
    assert zero.grad.item() == 1.0


def test_softmax_cross_entropy_matches(misc):
    ours = softmax_cross_entropy(tensor(misc["stablemax/logits"]), tensor(misc["stablemax/labels"]))
    np.testing.assert_allclose(ours, misc["softmax/cross_entropy"], atol=1e-5)


def test_learning_rate_matches(misc):
    within = [case for case in misc["lr/cases"] if case[4] <= max(case[1], case[2])]
    assert within
    for base, warmup, total, ratio, step, expected in within:
        ours = learning_rate(int(step), base, int(warmup), int(total), ratio)
        assert ours == pytest.approx(expected, rel=1e-6, abs=1e-12), (base, warmup, total, ratio, step)


def test_the_learning_rate_is_constant_after_the_estimated_steps():
    end = learning_rate(1000, 1e-4, 100, 1000, 0.1)
    assert end == pytest.approx(1e-5)
    assert learning_rate(1999, 1e-4, 100, 1000, 0.1) == end


def test_rms_norm_matches(misc):
    x = tensor(misc["rms_norm/x"])
    np.testing.assert_allclose(rms_norm(x, 1e-5), misc["rms_norm/y_eps1e-5"], atol=1e-6)
    np.testing.assert_array_equal(rms_norm(x.bfloat16(), 1e-5).float(), misc["rms_norm/y_bf16in_as_f32"])


def test_rotary_positions_match(misc):
    q, k = tensor(misc["rope/q"]), tensor(misc["rope/k"])
    cos, sin = RotaryEmbedding(q.shape[-1], q.shape[1], 10000.0)()
    np.testing.assert_allclose(cos, misc["rope/cos"], atol=1e-6)
    np.testing.assert_allclose(sin, misc["rope/sin"], atol=1e-6)
    for x, expected in ((q, misc["rope/q_out"]), (k, misc["rope/k_out"])):
        np.testing.assert_allclose(rotate(x.transpose(1, 2), cos, sin).transpose(1, 2), expected, atol=1e-6)


def test_swiglu_widths_match(misc):
    for hidden, expansion, inner in misc["swiglu_inner"]:
        assert swiglu_width(int(hidden), int(expansion)) == inner


def test_truncated_normal_has_the_published_distribution(misc):
    torch.manual_seed(0)
    for requested, mean, std, low, high, within_std, within_half, kurtosis in misc["trunc_normal/stats"]:
        x = truncated_normal_(torch.empty(1_000_000), requested).double()
        assert x.mean().item() == pytest.approx(mean, abs=5e-3 * requested)
        assert x.std().item() == pytest.approx(std, rel=5e-3)
        assert x.min().item() == pytest.approx(low, rel=5e-3)
        assert x.max().item() == pytest.approx(high, rel=5e-3)
        assert (x.abs() <= requested).double().mean().item() == pytest.approx(within_std, abs=3e-3)
        assert (x.abs() <= requested / 2).double().mean().item() == pytest.approx(within_half, abs=3e-3)
        standardised = (x - x.mean()) / x.std()
        assert standardised.pow(4).mean().item() in (
            pytest.approx(kurtosis, abs=2e-2),
            pytest.approx(kurtosis + 3, abs=2e-2),
        )


def test_adam_atan2_matches_step_by_step(misc):
    p = torch.nn.Parameter(tensor(misc["adam/p0"]))
    optimizer = AdamATan2([p], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1)
    for gradient, expected in zip(misc["adam/grads"], misc["adam/p_traj"], strict=True):
        p.grad = tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(p.detach(), expected, atol=1e-6)
    np.testing.assert_allclose(p.detach(), misc["adam/p_final_float64"], atol=1e-6)
    state = optimizer.state[p]
    np.testing.assert_allclose(state["exp_avg"], misc["adam/exp_avg"], atol=1e-7)
    np.testing.assert_allclose(state["exp_avg_sq"], misc["adam/exp_avg_sq"], atol=1e-7)
    assert state["step"].item() == misc["adam/step"]
    assert state["step"].dtype == torch.float32


def test_sparse_sign_sgd_matches_with_repeated_ids(misc):
    start = tensor(misc["signsgd/w0"])
    table = PuzzleEmbedding(*start.shape)
    table.weights.copy_(start)
    optimizer = SparseSignSGD(table, lr=1e-2, weight_decay=0.1)
    rows = table(tensor(misc["signsgd/ids"]))
    (rows * tensor(misc["signsgd/grad_rows"])).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(table.weights, misc["signsgd/w1"], atol=1e-7)
