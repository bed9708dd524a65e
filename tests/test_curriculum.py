"""depth_curriculum: the depth of each update, for every architecture, in evaluation and after resuming."""

from __future__ import annotations

import pytest
import torch
from stopped_runs import STOPPED, call_at, terminate
from training_runs import assert_same_run, tiny, train

from models.train.curriculum import DepthCurriculum
from models.train.step import train_step
from training_run import build
from utils.distributed import World
from utils.errors import UserError

DEEP = ["arch.H_cycles=3", "arch.L_cycles=3"]


def test_the_published_depth_grows_as_in_the_paper():
    curriculum = DepthCurriculum(total_steps=100, H_cycles=3, L_cycles=6)
    depths = [curriculum.cycles(step) for step in range(1, 121)]
    assert depths == [(1, 2)] * 29 + [(2, 4)] * 30 + [(3, 6)] * 61


@pytest.mark.parametrize(
    ("full", "stages"),
    [
        ((2, 2), [(1, 2), (2, 2)]),
        ((6, 9), [(2, 3), (4, 6), (6, 9)]),
        ((1, 1), [(1, 1)]),
        ((1, 4), [(1, 2), (1, 3), (1, 4)]),
    ],
)
def test_other_depths_grow_by_thirds_rounded_up(full, stages):
    curriculum = DepthCurriculum(10, *full)
    assert list(dict.fromkeys(curriculum.cycles(step) for step in range(1, 11))) == stages


def test_updates_have_the_depth_of_their_stage_and_evaluation_has_full_depth(
    identified, tmp_path, monkeypatch
):
    run = build(tiny(identified, tmp_path / "run", *DEEP, depth_curriculum=True), World())
    inner, calls = run.state.model.architecture, []
    cycle = type(inner).cycle

    def recorded(self, state, x):
        if x.shape[1] == inner.length:  # otherwise applications are only being counted
            calls.append(self.L_cycles)
        return cycle(self, state, x)

    monkeypatch.setattr(type(inner), "cycle", recorded)
    seen = []
    batches = [batch for _, batch, _ in run.train_data.batches(1)]
    total = run.state.optimizers.settings.total_steps
    for step in range(total):
        calls.clear()
        train_step(run.state, batches[step % len(batches)], World(), seed=0, global_batch_size=8)
        seen.append((len(calls), calls[0]))
        assert (inner.H_cycles, inner.L_cycles) == (3, 3)
    assert seen == [DepthCurriculum(total, 3, 3).cycles(step) for step in range(1, total + 1)]
    assert set(seen) == {(1, 2), (2, 2), (3, 3)}
    calls.clear()
    with torch.no_grad():
        run.state.model(run.state.model.initial_carry(batches[0]), batches[0])
    assert calls == [3, 3, 3]


@pytest.mark.parametrize("arch", ["trm", "trm_singlez", "trm_hier6", "hrm"])
def test_a_run_with_a_curriculum_resumes_exactly_with_every_architecture(
    identified, tmp_path, monkeypatch, arch
):
    overrides = [f"arch={arch}", *DEEP, *(["~arch.puzzle_emb_len"] if arch == "hrm" else [])]
    assert train(identified, tmp_path / "reference", *overrides, depth_curriculum=True) == 0
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 5, terminate)
        assert train(identified, tmp_path / "run", *overrides, depth_curriculum=True) == STOPPED
    assert train(identified, tmp_path / "run", *overrides, depth_curriculum=True, resume="auto") == 0
    assert_same_run(tmp_path / "run", tmp_path / "reference")


@pytest.mark.parametrize(
    "overrides",
    [["arch.H_cycles=1", "arch.L_cycles=2"], ["arch=transformers_baseline", "~arch.puzzle_emb_len"]],
)
def test_a_curriculum_without_effect_is_rejected(identified, tmp_path, overrides):
    if overrides[0] == "arch=transformers_baseline":
        overrides = [*overrides, "arch.H_cycles=1", "arch.L_cycles=1"]
    with pytest.raises(UserError, match="has too few for that"):
        train(identified, tmp_path / "run", *overrides, depth_curriculum=True)
