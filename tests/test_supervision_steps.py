"""supervision_steps_per_update: which steps make an update, what is counted, and where a run goes on."""

from __future__ import annotations

import pytest
import torch
from test_resume import STOPPED, call_at, terminate
from training_runs import assert_same_run, metrics, newest_state, tiny, train

from models.training import train_step
from training_run import build
from utils.distributed import World
from utils.errors import UserError


def batches_of(run) -> list[dict[str, torch.Tensor]]:
    return [batch for _, batch, _ in run.train_data.batches(1)]


def test_an_update_sums_the_gradients_of_successive_steps_at_the_same_weights(identified, tmp_path):
    """Two updates at a rate of 0 give the two gradients; one update of two steps has their sum."""
    run = build(tiny(identified, tmp_path / "one"), World())
    gradients: list[dict[str, torch.Tensor]] = []

    def noting() -> None:
        gradients.append({n: p.grad.clone() for n, p in run.state.model.named_parameters()})

    run.state.optimizers.step = noting
    first, second = batches_of(run)[:2]
    for batch in (first, second):
        train_step(run.state, batch, World(), seed=0, global_batch_size=8)
    single = run.state.interval.fetch()
    run = build(tiny(identified, tmp_path / "two", supervision_steps_per_update=2), World())
    run.state.optimizers.step = noting
    train_step(run.state, first, World(), seed=0, global_batch_size=8, more=[second])
    assert (run.state.step, run.state.batch) == (1, 2)
    for name, gradient in gradients[2].items():
        torch.testing.assert_close(gradient, gradients[0][name] + gradients[1][name], msg=name)
    assert run.state.interval.fetch() == pytest.approx(single)


def test_the_schedule_and_the_stream_count_updates(identified, tmp_path):
    train(identified, tmp_path / "one", log_interval=1)
    train(identified, tmp_path / "two", log_interval=1, supervision_steps_per_update=2)
    evaluated = [
        [line["step"] for line in metrics(tmp_path / name) if "test/accuracy" in line]
        for name in ("one", "two")
    ]
    batches = [evaluated[0][0], evaluated[0][1] - evaluated[0][0]]
    assert evaluated[1] == [batches[0] // 2, batches[0] // 2 + batches[1] // 2]
    config = tiny(identified, tmp_path / "x", supervision_steps_per_update=2)
    assert config.total_steps(12, 2.0) == 6  # 4 epochs of 12 groups of 2 examples: 12 batches of 8


@pytest.mark.parametrize("step", [1, 3])
def test_such_a_run_resumes_exactly(identified, tmp_path, monkeypatch, step):
    settings = {"supervision_steps_per_update": 2, "ema": True}
    assert train(identified, tmp_path / "reference", **settings) == 0
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", step, terminate)
        assert train(identified, tmp_path / "run", **settings) == STOPPED
    assert newest_state(tmp_path / "run")["shared"]["step"] == step
    with pytest.raises(UserError, match="supervision_steps_per_update: 2 in the checkpoint, 1 now"):
        train(identified, tmp_path / "run", ema=True, resume="auto")
    assert train(identified, tmp_path / "run", **settings, resume="auto") == 0
    assert_same_run(tmp_path / "run", tmp_path / "reference")


def test_more_steps_than_an_iteration_has_batches_are_refused(identified, tmp_path):
    with pytest.raises(
        UserError, match="supervision_steps_per_update=99, but an iteration of 2 epochs has only"
    ):
        train(identified, tmp_path / "run", supervision_steps_per_update=99)
