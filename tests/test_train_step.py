"""Updates compared with explicit formulas, and the rows processed by each rank."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor
from training_runs import tiny

from models.act import ACTModel, draw_min_steps
from models.optim.skip_step import masked
from models.train.step import train_step
from training_run import Run, build
from utils.distributed import World

BATCH, SEED, TOTAL = 8, 3, 12
LR, TABLE_LR, WARM_UP, MIN_RATIO = 0.02, 0.05, 3, 0.1
DECAY, TABLE_DECAY, BETAS, CLIP, EMA_RATE = 0.3, 0.4, (0.7, 0.6), 0.2, 0.8
CHOICES = {
    "adam_atan2": ["optimizer=adam_atan2"],
    "adamw": ["optimizer=adamw"],
    "muon and adamw": ["optimizer=muon"],
    "muon and adam_atan2": ["optimizer=muon", "optimizer.rest=adam_atan2"],
}


def built(data, folder, *overrides, **values) -> Run:
    """Build a run of `TOTAL` updates whose rows always say stop, so that exploration determines when they halt."""
    settings = {
        "lr": LR,
        "lr_warmup_steps": WARM_UP,
        "lr_min_ratio": MIN_RATIO,
        "beta1": BETAS[0],
        "beta2": BETAS[1],
        "weight_decay": DECAY,
        "puzzle_emb_lr": TABLE_LR,
        "puzzle_emb_weight_decay": TABLE_DECAY,
        "global_batch_size": BATCH,
        "ema": True,
        "ema_rate": EMA_RATE,
    }
    run = build(tiny(data, folder, *overrides, **settings | values), World())
    inner = run.state.model.architecture
    torch.nn.init.ones_(inner.q_head.bias)
    if inner.prefix_len:
        torch.nn.init.normal_(inner.puzzle_emb.weights)
    run.state.ema.reset()
    return run


def batches_of(run: Run, count: int) -> list[dict[str, Tensor]]:
    found = []
    iteration = 1
    while len(found) < count:
        found += [batch for _, batch, _ in run.train_data.batches(iteration)]
        iteration += 1
    return found[:count]


def rate_at(step: int, base: float) -> float:
    if step < WARM_UP:
        return base * step / WARM_UP
    progress = (step - WARM_UP) / (TOTAL - WARM_UP)
    return base * (MIN_RATIO + (1 - MIN_RATIO) * (1 + math.cos(math.pi * progress)) / 2)


class WrittenOut:
    """An independent implementation of the update, in float64, from gradients of a copy of the model."""

    def __init__(self, run: Run, *, atan2: bool, clip: float | None):
        self.run, self.atan2, self.clip = run, atan2, clip
        self.model = deepcopy(run.state.model)
        self.carry = None
        self.moments = {name: (0.0, 0.0) for name, _ in self.model.named_parameters()}
        self.averages = {name: p.detach().double() for name, p in self.model.named_parameters()}
        self.norms: list[float] = []

    def step(self, step: int, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return the weights of the run after this update: parameters by name, and the puzzle table."""
        model = self.model
        model.load_state_dict(self.run.state.model.state_dict())
        model.zero_grad()
        table = model.architecture.puzzle_emb
        table.leaves.clear()
        least = torch.from_numpy(draw_min_steps(SEED, step, BATCH, 0.5, model.act.max_steps))
        self.carry, loss, _, _ = model(self.carry or model.initial_carry(batch), batch, least)
        loss.backward()

        gradients = {name: p.grad.double() / BATCH for name, p in model.named_parameters()}
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        self.norms.append(norm)
        factor = 1.0 if self.clip is None else min(1.0, self.clip / norm)
        lr, (beta1, beta2) = rate_at(step, LR), BETAS
        expected = {}
        for name, p in model.named_parameters():
            g = gradients[name] * factor
            m, v = self.moments[name]
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            self.moments[name] = m, v
            root = torch.sqrt(v / (1 - beta2**step))
            if self.atan2:
                direction = torch.atan2(m, root) / (1 - beta1**step)
            else:
                direction = m / (1 - beta1**step) / (root + 1e-8)
            expected[name] = p.detach().double() * (1 - lr * DECAY) - lr * direction

        rows, lr = table.weights.double(), rate_at(step, TABLE_LR)
        ((ids, leaf),) = table.leaves
        for identifier in ids.unique():
            total = leaf.grad[ids == identifier].sum(0).double()
            rows[identifier] = rows[identifier] * (1 - lr * TABLE_DECAY) - lr * total.sign()
        return expected, rows

    def average(self) -> dict[str, Tensor]:
        """Return the averages after the last update of the run."""
        for name, p in self.run.state.model.named_parameters():
            self.averages[name] = EMA_RATE * self.averages[name] + (1 - EMA_RATE) * p.detach().double()
        return self.averages


@pytest.mark.parametrize("clip", [None, CLIP])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_update_matches_the_formulas(identified, tmp_path, choice, clip):
    run = built(identified, tmp_path / "run", *CHOICES[choice], grad_clip=clip)
    assert run.state.optimizers.settings.total_steps == TOTAL
    by_hand = WrittenOut(run, atan2=choice.endswith("adam_atan2"), clip=clip)
    of_muon = {n for n in by_hand.moments if choice.startswith("muon") and ".layers." in n}
    halted_after = set()
    for step, batch in enumerate(batches_of(run, TOTAL), start=1):
        expected, rows = by_hand.step(step, batch)
        train_step(run.state, batch, World(), seed=SEED, global_batch_size=BATCH)
        for name, p in run.state.model.named_parameters():
            if name not in of_muon:
                torch.testing.assert_close(p.double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
        torch.testing.assert_close(run.state.model.architecture.puzzle_emb.weights.double(), rows)
        for name, average in by_hand.average().items():
            torch.testing.assert_close(run.state.ema.shadow[name].double(), average, rtol=1e-5, atol=1e-6)
        (carry,) = run.state.carries
        halted_after |= set(carry.steps[carry.halted].tolist())
    assert halted_after == {1, 2, 3}  # exploration has an effect
    assert len(of_muon) == (4 if choice.startswith("muon") else 0)
    assert min(by_hand.norms) > 1.5 * CLIP or clip is None
    assert max(by_hand.norms) > 1.5 * min(by_hand.norms)  # clipping scales gradients differently


class Share(World):
    """A single rank of several, whose collectives only return its own values."""

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_gradients(self, parameters) -> None:
        pass


@pytest.mark.parametrize(("ranks", "parts"), [(2, 1), (1, 2), (2, 2)])
def test_exploration_does_not_depend_on_ranks_and_micro_batches(identified, tmp_path, ranks, parts):
    """The learning rate is 0, so that each part of the batch can be tracked separately."""
    rates = {"lr": 0.0, "puzzle_emb_lr": 0.0}
    whole, *shares = (built(identified, tmp_path / str(i), **rates) for i in range(1 + ranks))
    halted = []
    for batch in batches_of(whole, 6):
        train_step(whole.state, batch, World(), seed=SEED, global_batch_size=BATCH)
        (carry,) = whole.state.carries
        for rank, run in enumerate(shares):
            rows = {name: value.chunk(ranks)[rank] for name, value in batch.items()}
            train_step(
                run.state,
                rows,
                Share(rank, ranks),
                seed=SEED,
                global_batch_size=BATCH,
                grad_accum_steps=parts,
            )
        found = [carry for run in shares for carry in run.state.carries]
        assert len(found) == ranks * parts
        assert torch.equal(torch.cat([carry.halted for carry in found]), carry.halted)
        assert torch.equal(torch.cat([carry.steps for carry in found]), carry.steps)
        for name, value in carry.current.items():
            assert torch.equal(torch.cat([carry.current[name] for carry in found]), value)
        halted.append(carry.halted)
    # With the exploration of another part, rows would halt at other steps.
    halves = torch.stack(halted).chunk(2, dim=1)
    assert not torch.equal(*halves)
    assert not torch.equal(*halves[0].chunk(2, dim=1))


def test_random_latents_are_of_the_rank_the_micro_batch_and_the_step(identified, tmp_path, monkeypatch):
    load, drawn = ACTModel.load, []

    def drawing(self, carry, batch):
        drawn.append(torch.rand(()).item())
        return load(self, carry, batch)

    monkeypatch.setattr(ACTModel, "load", drawing)
    for rank in (0, 1, 1):
        run = built(identified, tmp_path / "run", "arch.random_init=true")
        for batch in batches_of(run, 2):
            rows = {name: value.chunk(2)[rank] for name, value in batch.items()}
            train_step(
                run.state, rows, Share(rank, 2), seed=SEED, global_batch_size=BATCH, grad_accum_steps=2
            )
    assert drawn[4:8] == drawn[8:]
    assert len(set(drawn[:8])) == 8


@pytest.mark.parametrize("parts", [1, 2])
def test_the_gradient_is_the_mean_over_the_global_batch(identified, tmp_path, parts):
    """AdamATan2 is invariant to the scale of gradients, so compare the values that are summed over ranks."""
    run = built(identified, tmp_path / "run")
    copy = deepcopy(run.state.model)
    (batch,) = batches_of(run, 1)
    seen = {}

    class Watching(Share):
        def sum_gradients(self, parameters) -> None:
            seen.update({name: p.grad.clone() for name, p in run.state.model.named_parameters()})

    train_step(run.state, batch, Watching(1, 3), seed=SEED, global_batch_size=24, grad_accum_steps=parts)
    _, loss, _, _ = copy(copy.initial_carry(batch), batch)
    loss.backward()
    for name, p in copy.named_parameters():
        torch.testing.assert_close(seen[name], p.grad / 24, rtol=1e-4, atol=1e-7)
    assert all(p.grad is None for p in run.state.model.parameters())


@pytest.mark.parametrize("on_accelerator", [False, True])
def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all(
    identified, tmp_path, monkeypatch, on_accelerator
):
    """Accelerators update first and then undo it; run that code path on the CPU."""
    if on_accelerator:
        monkeypatch.setattr(
            "models.train.step.skip_step_unless",
            lambda ok, optimizers, shadow, update: masked(ok, list(optimizers), list(shadow), update),
        )

    class Other(Share):
        def sum_(self, tensor: Tensor) -> Tensor:
            return tensor + 1  # the gradient of another rank was not finite

    run = built(identified, tmp_path / "run")
    before = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    table = run.state.model.architecture.puzzle_emb.weights
    rows = table.clone()
    (batch,) = batches_of(run, 1)
    train_step(run.state, batch, Other(0, 2), seed=SEED, global_batch_size=2 * BATCH)
    for name, p in run.state.model.named_parameters():
        assert torch.equal(p, before[name]), name
        assert torch.equal(run.state.ema.shadow[name], before[name]), name
    assert torch.equal(table, rows)
    with pytest.raises(ValueError, match="step 1 "):
        run.state.metrics.fetch()


def test_a_nonfinite_gradient_of_the_puzzle_table_stops_the_update(identified, tmp_path):
    run = built(identified, tmp_path / "run")
    table = run.state.model.architecture.puzzle_emb
    before = [p.detach().clone() for p in (*run.state.model.parameters(), table.weights)]

    class Overflowing(World):
        def sum_gradients(self, parameters) -> None:
            table.leaves[0][1].grad[0, 0] = math.inf

    (batch,) = batches_of(run, 1)
    train_step(run.state, batch, Overflowing(), seed=SEED, global_batch_size=BATCH)
    for now, then in zip((*run.state.model.parameters(), table.weights), before, strict=True):
        assert torch.equal(now, then)
    with pytest.raises(ValueError, match="step 1 "):
        run.state.metrics.fetch()


def test_a_nonfinite_loss_stops_the_update_even_if_all_gradients_are_finite(identified, tmp_path):
    run = built(identified, tmp_path / "run", "arch.loss.q_halt_weight=0")
    torch.nn.init.constant_(run.state.model.architecture.q_head.bias, math.inf)
    before = [p.detach().clone() for p in run.state.model.parameters()]
    gradients = []

    class Watching(World):
        def sum_gradients(self, parameters) -> None:
            gradients.extend(p.grad for p in parameters)

    for batch in batches_of(run, 2):
        train_step(run.state, batch, Watching(), seed=SEED, global_batch_size=BATCH)
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    for now, then in zip(run.state.model.parameters(), before, strict=True):
        assert torch.equal(now, then)
    with pytest.raises(ValueError, match=r"step 1 \(batch 1 of iteration 1 "):
        run.state.metrics.fetch()
