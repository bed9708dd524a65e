"""arch.ffn, rope2d, random latents and damped noise: formulas, published defaults, and resuming."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from smallest import SMALLEST_TRM
from stopped_runs import STOPPED, call_at, terminate
from training_runs import assert_same_run, metrics, tiny, train

from evaluators.evaluation import evaluate
from models.feedforward import ConvSwiGLU, RMSSwiGLU
from models.grid_rotary import GridRotaryEmbedding
from models.layers import RotaryEmbedding
from models.ops import rotate
from models.registry import build_model, check_arch
from training_run import build
from utils.distributed import World
from utils.errors import UserError

ARCH = SMALLEST_TRM | {"H_cycles": 2, "L_cycles": 2}
SIZES = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 1}


def model(**arch):
    torch.manual_seed(0)
    return build_model(ARCH | arch, **SIZES)


def batch(rows: int = 3) -> dict[str, torch.Tensor]:
    tokens = torch.randint(1, 6, (rows, 16), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    return {"inputs": tokens, "labels": tokens, "puzzle_identifiers": torch.zeros(rows, dtype=torch.int32)}


# Feed-forward layers


def test_rms_swiglu_normalises_the_product_and_gates_it():
    torch.manual_seed(0)
    layer, x = RMSSwiGLU(8, 4, eps=1e-5).double(), torch.randn(2, 3, 8, dtype=torch.float64)
    g, v = (x @ layer.gate_up_proj.weight.T).chunk(2, -1)
    product = g * v
    normed = product / (product.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = (normed / (1 + (-g).exp())) @ layer.down_proj.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_conv_swiglu_is_the_published_padded_and_cropped_convolution():
    torch.manual_seed(0)
    layer, x = ConvSwiGLU(8, 4), torch.randn(2, 5, 8)
    g, v = layer.gate_up_proj(x).chunk(2, -1)
    inner = (F.silu(g) * v).transpose(1, 2)
    convolved = F.conv1d(inner, layer.conv.weight, layer.conv.bias, padding=1, groups=inner.shape[1])[..., :5]
    torch.testing.assert_close(layer(x), layer.down_proj(F.silu(convolved).transpose(1, 2)))
    moved = x.clone()
    moved[:, 2] += 1
    changed = (layer(moved) != layer(x)).any(-1).any(0)
    assert changed.tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("ffn", ["rms_swiglu", "conv_swiglu"])
def test_every_ffn_replaces_the_layers_of_the_blocks_only(ffn):
    plain, other = model(), model(ffn=ffn)
    own = {name: p.shape for name, p in other.named_parameters() if ".mlp.conv." not in name}
    assert own == {name: p.shape for name, p in plain.named_parameters()}
    assert {name for name, _ in other.named_parameters()} - own.keys() == (
        {f"model.inner.L_level.layers.0.mlp.conv.{p}" for p in ("weight", "bias")}
        if ffn == "conv_swiglu"
        else set()
    )
    one, two = (m.eval()(m.initial_carry(batch()), batch())[3]["logits"] for m in (plain, other))
    assert not torch.equal(one, two)


def test_rms_swiglu_also_mixes_cells_and_convolution_does_not():
    names = {type(m).__name__ for m in model(mlp_t=True, ffn="rms_swiglu").modules()}
    assert "RMSSwiGLU" in names
    assert "SwiGLU" not in names
    with pytest.raises(ValueError, match="ffn=conv_swiglu convolves over positions"):
        model(mlp_t=True, ffn="conv_swiglu")


# Positions of a grid


def test_scores_depend_on_the_difference_of_rows_and_of_columns_only():
    table = GridRotaryEmbedding(8, prefix_len=0, seq_len=16, theta=100.0)
    torch.manual_seed(0)
    q, k = (torch.randn(8).expand(1, 1, 16, 8) for _ in range(2))
    q, k = rotate(q, *table())[0, 0], rotate(k, *table())[0, 0]
    scores = (q @ k.T).view(4, 4, 4, 4)  # [query row, query column, key row, key column]
    torch.testing.assert_close(scores[0, 1, 2, 2], scores[1, 2, 3, 3])
    torch.testing.assert_close(scores[3, 0, 2, 0], scores[2, 3, 1, 3])
    assert abs(scores[0, 0, 0, 1] - scores[0, 0, 1, 0]) > 1e-3  # rows and columns are distinguished
    assert abs(scores[0, 0, 0, 3] - scores[0, 3, 1, 0]) > 1e-3  # the ends of two rows are not neighbours


def test_one_row_of_the_grid_is_rotated_like_a_line_of_half_the_width():
    table = GridRotaryEmbedding(8, prefix_len=2, seq_len=16, theta=100.0)
    line = RotaryEmbedding(4, 4, 100.0)
    assert torch.equal(table.cos[:2], torch.ones(2, 8))
    assert torch.equal(table.sin[:2], torch.zeros(2, 8))
    first_row, first_column = table.sin[2:6], table.sin[2::4]
    assert torch.equal(first_row[:, 2:4], line.sin[:, :2])
    assert torch.equal(first_row[:, :2], torch.zeros(4, 2))
    assert torch.equal(first_column[:, :2], line.sin[:, :2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_len": 15}, "needs a square grid, but seq_len=15"),
        ({"hidden_size": 12}, "multiple of 4, but hidden_size=12 / num_heads=2 gives 6"),
        ({"mlp_t": True}, "mlp_t=True has no attention"),
    ],
)
def test_impossible_grid_positions_are_rejected(changes, message):
    arch = {key: value for key, value in (ARCH | changes).items() if key != "seq_len"}
    with pytest.raises(ValueError, match=message):
        check_arch(
            arch | {"pos_encodings": "rope2d"}, **SIZES | {k: v for k, v in changes.items() if k == "seq_len"}
        )


# Random latents and damped noise


def test_damping_keeps_a_share_of_the_old_latent():
    plain, damped = model(), model(damping=0.25)
    damped.load_state_dict(plain.state_dict())
    torch.manual_seed(0)
    h, x = torch.randn(2, 3, 16, 16)
    new = plain.architecture.f(plain.architecture.L_level, h, x)
    torch.testing.assert_close(
        damped.architecture.f(damped.architecture.L_level, h, x), 0.25 * h + 0.75 * new
    )


def test_noise_is_added_with_its_std_at_each_update():
    plain, noisy = model(), model(noise=0.1)
    noisy.load_state_dict(plain.state_dict())
    h, x = torch.randn(2, 200, 16, 16)
    difference = noisy.architecture.f(noisy.architecture.L_level, h, x) - plain.architecture.f(
        plain.architecture.L_level, h, x
    )
    assert difference.std().item() == pytest.approx(0.1, rel=0.02)
    assert abs(difference.mean().item()) < 1e-3


def test_train_noise_is_added_once_to_all_latents_in_training_only():
    plain, noisy = model(), model(train_noise=0.5)
    noisy.load_state_dict(plain.state_dict())
    heard: list[tuple[torch.Tensor, ...]] = []
    noisy.architecture.recur = lambda state, x: heard.append(state) or state
    state = tuple(torch.randn(2, 200, 16, 16))
    inputs = batch()["inputs"].repeat(100, 1)[:200]
    for training in (True, False):
        noisy.train(training)
        noisy.architecture(state, inputs, None)
    in_training, in_evaluation = heard
    for latent, given, unchanged in zip(in_training, state, in_evaluation, strict=True):
        assert (latent - given).std().item() == pytest.approx(0.5, rel=0.02)
        assert abs((latent - given).mean().item()) < 5e-3
        assert torch.equal(unchanged, given)
    assert noisy.train().architecture.is_stochastic
    assert not noisy.eval().architecture.is_stochastic


def test_random_latents_differ_between_rows_and_channels_and_have_unit_std():
    inner = model(random_init=True).architecture
    y, z = inner.initial_state(300)
    assert y.shape == (300, 16, 16)
    assert not torch.equal(y, z)
    for latent in (y, z):
        assert latent.std().item() == pytest.approx(1, rel=0.02)
        assert latent.abs().max() < 2.3  # truncated at two sigmas of the untruncated distribution


@pytest.mark.parametrize("option", [{"random_init": True}, {"noise": 0.3}])
def test_evaluation_is_reproducible_and_does_not_affect_other_draws(option):
    m = model(**option).eval()

    def answers() -> list[torch.Tensor]:
        carry, found = m.initial_carry(batch()), []
        for _ in range(2):
            carry, _, _, outputs = m(carry, batch())
            found.append(outputs["logits"])
        return found

    first = answers()
    torch.manual_seed(99)
    before = torch.get_rng_state() if "noise" in option else None
    for one, two in zip(first, answers(), strict=True):
        assert torch.equal(one, two)
    assert before is None or torch.equal(before, torch.get_rng_state())


DYNAMICS = {
    "random": ["arch.random_init=True"],
    "noise": ["arch.damping=0.05", "arch.noise=0.01", "grad_accum_steps=2"],
    "both": ["arch.random_init=True", "arch.noise=0.1"],
    "recomputed": ["arch.noise=0.1", "activation_checkpointing=True"],
    "train_noise": ["arch.train_noise=0.3", "grad_accum_steps=2"],
    "conv": ["arch.ffn=conv_swiglu", "optimizer=muon"],
    "grid": ["arch.pos_encodings=rope2d", "arch.ffn=rms_swiglu"],
}


@pytest.mark.parametrize("overrides", DYNAMICS.values(), ids=DYNAMICS)
def test_runs_with_these_options_resume_exactly(identified, tmp_path, monkeypatch, overrides):
    assert train(identified, tmp_path / "reference", *overrides) == 0
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 3, terminate)
        assert train(identified, tmp_path / "run", *overrides) == STOPPED
    assert train(identified, tmp_path / "run", *overrides, resume="auto") == 0
    assert_same_run(tmp_path / "run", tmp_path / "reference")


def test_noise_changes_training_and_two_evaluations_of_the_same_weights_agree(identified, tmp_path):
    run = build(tiny(identified, tmp_path / "run", "arch.noise=0.5"), World())
    one, two = (evaluate(run.state.model, run.test_data, World(), evaluators={}) for _ in range(2))
    assert one == two
    for name, overrides in {"with": ["arch.noise=0.5"], "without": []}.items():
        train(identified, tmp_path / name, *overrides)
    assert metrics(tmp_path / "with") != metrics(tmp_path / "without")


def test_damping_is_rejected_if_the_network_does_not_get_the_old_latent(identified, tmp_path):
    with pytest.raises(UserError, match=r"arch\.damping: 0\.1 is not valid"):
        tiny(identified, tmp_path / "run", "arch=trm_hier6", "arch.damping=0.1")
