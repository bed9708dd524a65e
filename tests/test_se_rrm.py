"""se_rrm and urm: equivariance, grids of other sizes with the same weights, and the formula of a cycle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_runs import ROOT, run_python, train

from models.registry import build_model
from utils.errors import UserError

ARCH = {
    "name": "se_rrm",
    "hidden_size": 16,
    "num_heads": 2,
    "H_cycles": 2,
    "L_cycles": 2,
    "L_layers": 1,
    "halt_max_steps": 3,
    "forward_dtype": "float32",
}
SETTINGS = [f"arch.{key}={value}" for key, value in ARCH.items() if key != "name"]


def model(seq_len: int, vocab_size: int, **arch):
    torch.manual_seed(0)
    built = build_model(ARCH | arch, seq_len=seq_len, vocab_size=vocab_size, num_puzzle_identifiers=1).eval()
    with torch.no_grad():
        built.architecture.q_head.weight.normal_()
    return built


def answer(built, inputs: torch.Tensor):
    batch = {"inputs": inputs, "labels": inputs, "puzzle_identifiers": inputs[:, 0]}
    carry = built.initial_carry(batch)
    for _ in range(2):
        carry, outputs = built.model(carry, batch)
    return outputs["logits"], outputs["q_halt_logits"]


@torch.no_grad()
def test_permuting_the_digits_permutes_the_logits_and_keeps_halting():
    built = model(16, 6)
    inputs = torch.randint(1, 6, (3, 16), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    relabelled = torch.tensor([0, 1, 4, 2, 5, 3], dtype=torch.int32)
    logits, q = answer(built, inputs)
    moved, moved_q = answer(built, relabelled[inputs.long()])
    torch.testing.assert_close(moved[..., relabelled.long()], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved_q, q, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.01
    blank_for_digit = torch.tensor([0, 2, 1, 3, 4, 5], dtype=torch.int32)  # a blank is not a digit
    other, _ = answer(built, blank_for_digit[inputs.long()])
    assert (other[..., blank_for_digit.long()] - logits).abs().max() > 1e-3


@torch.no_grad()
def test_the_same_weights_work_for_grids_of_any_size():
    small = model(16, 6)
    for seq_len, vocab_size in ((36, 8), (81, 11)):
        large = model(seq_len, vocab_size)
        large.load_state_dict(small.state_dict())
        logits, q = answer(large, torch.randint(1, vocab_size, (2, seq_len), dtype=torch.int32))
        assert logits.shape == (2, seq_len, vocab_size)
        assert logits.isfinite().all()
        assert q.isfinite().all()


@torch.no_grad()
def test_a_cycle_of_urm_applies_the_network_to_the_latent_and_the_question():
    torch.manual_seed(0)
    built = build_model(
        ARCH | {"name": "urm", "puzzle_emb_ndim": 0}, seq_len=16, vocab_size=6, num_puzzle_identifiers=1
    )
    inner, x, z = built.architecture, torch.randn(2, 16, 16), torch.randn(2, 16, 16)
    (found,) = inner.cycle((z,), x)
    expected = inner.L_level(inner.L_level(z, x, inner.cos_sin()), x, inner.cos_sin())
    assert torch.equal(found, expected)
    assert "ConvSwiGLU" in {type(m).__name__ for m in inner.modules()}


def build_data(folder: Path, size: int) -> Path:
    arguments = ["--size", str(size), "--generate", "20", "--test-size", "9", "--num-aug", "1", "--seed", "0"]
    script = ROOT / "dataset" / "build_sudoku_dataset.py"
    subprocess.run(
        [sys.executable, str(script), "--output-dir", str(folder), *arguments],
        check=True,
        capture_output=True,
    )
    return folder


def test_a_model_trained_on_small_grids_is_evaluated_on_larger_ones(tmp_path):
    small, large = build_data(tmp_path / "4", 4), build_data(tmp_path / "6", 6)
    assert train(small, tmp_path / "run", "arch=se_rrm", "~arch.puzzle_emb_len", *SETTINGS) == 0
    assert train(small, tmp_path / "trm", *SETTINGS) == 0

    def evaluate(run: str):
        arguments = [f"checkpoint={tmp_path / run}", f"data_paths_test=[{large}]", "device=cpu"]
        return run_python(str(ROOT / "evaluate.py"), *arguments, cwd=tmp_path)

    done = evaluate("run")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    rejected = evaluate("trm")
    assert rejected.returncode == 2
    assert "does not fit the data" in rejected.stderr


@pytest.mark.parametrize("bad", ["arch.mlp_t=True", "arch.puzzle_emb_ndim=8", "arch.pos_encodings=rope"])
def test_options_that_tie_the_weights_to_one_size_are_rejected(sudoku4x4, tmp_path, bad):
    key = bad.partition("=")[0].replace(".", r"\.")
    with pytest.raises(UserError, match=key):
        train(sudoku4x4, tmp_path / "run", "arch=se_rrm", *SETTINGS, bad)
