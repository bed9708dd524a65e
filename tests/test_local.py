"""trm_local: symmetries, receptive field, grids of other sizes with the same weights, and mazes end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sudoku_builds import build as build_sudoku
from training_runs import in_process_command, train

import evaluate
from dataset.augment import NUM_DIHEDRAL, dihedral
from dataset.build_maze_dataset import main as build_mazes
from models.registry import ConfigError, build_model

ARCH = {"name": "trm_local", "hidden_size": 8, "L_cycles": 3, "forward_dtype": "float32", "halt_max_steps": 4}
SMALL = ("arch=trm_local", "arch.hidden_size=8", "arch.num_heads=1", "arch.puzzle_emb_len=0")
VOCAB = 6


def model(side: int, **arch):
    torch.manual_seed(0)
    sizes = {"seq_len": side * side, "vocab_size": VOCAB, "num_puzzle_identifiers": 1}
    built = build_model(ARCH | arch, **sizes).eval()
    with torch.no_grad():
        built.architecture.q_head.weight.normal_()
    return built


@torch.no_grad()
def answer(built, grids: np.ndarray, steps: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (B, N, N, V) and q_halt (B,) after some supervision steps on tokens (B, N, N)."""
    inner = built.architecture
    state = inner.initial_state(len(grids))
    for _ in range(steps):
        state, (logits, q_halt, _) = inner(state, torch.from_numpy(grids).flatten(1), None)
    return logits.unflatten(1, grids.shape[1:]).numpy(), q_halt.numpy()


def drawn(side: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(1, VOCAB, (count, side, side), dtype=np.int32)


@pytest.mark.parametrize("transform", range(1, NUM_DIHEDRAL))
def test_with_shared_directions_rotations_and_reflections_permute_the_logits(transform):
    built, grids = model(7, directions="shared"), drawn(7)
    logits, q_halt = answer(built, grids)
    moved_logits, moved_q = answer(built, np.ascontiguousarray(dihedral(grids, transform)))
    expected = np.stack([dihedral(logits[..., token], transform) for token in range(VOCAB)], axis=-1)
    np.testing.assert_allclose(moved_logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moved_q, q_halt, rtol=1e-4, atol=1e-4)
    assert logits.std() > 0.01


@pytest.mark.parametrize("transform", range(1, NUM_DIHEDRAL))
def test_with_distinct_directions_rotations_and_reflections_matter(transform):
    built, grids = model(7), drawn(7)
    logits, _ = answer(built, grids)
    moved_logits, _ = answer(built, np.ascontiguousarray(dihedral(grids, transform)))
    expected = np.stack([dihedral(logits[..., token], transform) for token in range(VOCAB)], axis=-1)
    assert np.abs(moved_logits - expected).max() > 0.1


@pytest.mark.parametrize("directions", ["distinct", "shared"])
def test_shifting_a_puzzle_shifts_its_answer_away_from_the_border(directions):
    built = model(24, directions=directions)
    grids, reach = drawn(24), 2 * ARCH["L_cycles"]
    logits, _ = answer(built, grids)
    moved_logits, _ = answer(built, np.roll(grids, (3, -2), axis=(1, 2)))
    inside = slice(reach + 3, 24 - reach - 3)
    expected = np.roll(logits, (3, -2), axis=(1, 2))
    np.testing.assert_allclose(
        moved_logits[:, inside, inside], expected[:, inside, inside], rtol=1e-4, atol=1e-4
    )
    assert np.abs(moved_logits - expected).max() > 0.1  # at the border


@pytest.mark.parametrize("directions", ["distinct", "shared"])
def test_an_application_depends_on_the_four_neighbours_only(directions):
    inner = model(4, directions=directions).architecture
    h = torch.randn(1, 16, 8, requires_grad=True)
    out = inner.f(inner.L_level, h, torch.zeros(1, 16, 8))
    for cell, expected in ((5, {1, 4, 5, 6, 9}), (0, {0, 1, 4}), (7, {3, 6, 7, 11}), (12, {8, 12, 13})):
        (grad,) = torch.autograd.grad(out[0, cell].sum(), h, retain_graph=True)
        assert set(grad[0].abs().sum(-1).nonzero().flatten().tolist()) == expected


def test_the_same_weights_work_for_grids_of_any_size_and_agree_in_the_interior():
    small, large = model(20), model(30)
    large.load_state_dict(small.state_dict())
    grids, reach = drawn(30), 2 * ARCH["L_cycles"]
    logits, q_halt = answer(large, grids)
    corner_logits, _ = answer(small, np.ascontiguousarray(grids[:, :20, :20]))
    inside = slice(0, 20 - reach)
    np.testing.assert_allclose(
        logits[:, inside, inside], corner_logits[:, inside, inside], rtol=1e-4, atol=1e-4
    )
    assert np.isfinite(q_halt).all()


def test_a_grid_that_is_not_square_is_rejected():
    with pytest.raises(
        ConfigError, match="trm_local needs a square grid, but seq_len=30 is not a square number"
    ):
        build_model(ARCH, seq_len=30, vocab_size=VOCAB, num_puzzle_identifiers=1)


def maze_data(folder, size: int):
    options = ["--size", str(size), "--generate", "24", "--test-size", "8", "--workers", "1"]
    build_mazes(["--output-dir", str(folder), *options])
    return folder


def test_a_model_trained_on_small_mazes_can_be_evaluated_on_larger_ones(tmp_path, monkeypatch):
    small, large = maze_data(tmp_path / "small", 6), maze_data(tmp_path / "large", 9)
    run = tmp_path / "run"
    assert train(small, run, *SMALL, "arch.L_cycles=2", evaluators=[{"name": "maze@Maze"}]) == 0
    arguments = f"checkpoint={run}", f"data_paths_test=[{large}]", f"out={tmp_path / 'report'}"
    assert in_process_command(monkeypatch, tmp_path, *arguments, entry=evaluate) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert 0 <= report["metrics"]["maze/optimal"] <= report["metrics"]["maze/valid_path"] <= 1


def test_data_with_another_vocabulary_is_rejected(tmp_path, monkeypatch, capsys):
    run, sudoku = tmp_path / "run", tmp_path / "sudoku"
    assert train(maze_data(tmp_path / "small", 5), run, *SMALL) == 0
    build_sudoku(
        "--output-dir", sudoku, "--size", "6", "--generate", "8", "--test-size", "4", "--num-aug", "0"
    )
    capsys.readouterr()
    arguments = f"checkpoint={run}", f"data_paths_test=[{sudoku}]", f"out={tmp_path / 'report'}"
    assert in_process_command(monkeypatch, tmp_path, *arguments, entry=evaluate) == 2
    message = capsys.readouterr().err
    assert "vocab_size: 6 in the weights, 8 in the data" in message
    assert "seq_len" not in message
