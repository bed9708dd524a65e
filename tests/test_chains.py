"""arch.chains: of several chains of a puzzle the best is trained and leads on; evaluation runs one."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from ranks import outputs_of, run_ranks
from smallest import SMALLEST_TRM
from test_ranks import run_training
from test_resume import STOPPED, call_at, terminate
from training_runs import assert_same_run, metrics, newest_state, tiny, train

import models
import solve
from config.evaluate_schema import EvaluateConfig
from config.schema import parse
from evaluate import run_evaluation
from export import ExportConfig, export
from models.act import Carry
from models.architectures import ARCHITECTURES
from models.registry import build_model
from training_run import build
from utils.distributed import World
from utils.errors import UserError

ARCH = SMALLEST_TRM | {
    "H_cycles": 2,
    "L_cycles": 2,
    "puzzle_emb_ndim": 16,
    "puzzle_emb_len": 1,
    "loss": {"loss_type": "softmax_cross_entropy"},
}
SIZES = {"seq_len": 6, "vocab_size": 7, "num_puzzle_identifiers": 3}
ROWS = 8


def model(seed: int = 0, **arch):
    """Its heads and puzzle table are random too, so that chains differ in all that they say."""
    torch.manual_seed(seed)
    head = build_model(ARCH | arch, **SIZES)
    inner = head.model.inner
    torch.nn.init.normal_(inner.q_head.weight)
    torch.nn.init.zeros_(inner.q_head.bias)
    torch.nn.init.normal_(inner.puzzle_emb.weights)
    return head


def batch(rows: int = ROWS, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    inputs, labels = torch.randint(1, 7, (2, rows, 6), generator=rng, dtype=torch.int32)
    labels[:, 0] = -100
    return {"inputs": inputs, "labels": labels, "puzzle_identifiers": torch.arange(rows).int() % 3}


def loaded(head, carry: Carry, data) -> Carry:
    """What the slots have in the coming call, whose draws are the same under the same seed."""
    torch.manual_seed(7)
    return head.model.load(carry, data)


def stepped(head, carry: Carry, data, *more):
    torch.manual_seed(7)
    return head(carry, data, *more)


def alone(head, carry: Carry, chain: torch.Tensor) -> Carry:
    """The carry of a model without chains that stands where this chain (B,) of each row stands."""
    rows = torch.arange(len(chain))
    state = carry.state[0], *(z[rows, chain] for z in carry.state[1:])
    return Carry(state, carry.steps, carry.halted, carry.current)


def losses_of_chains(head, carry: Carry) -> torch.Tensor:
    """(B, K) cross-entropy of every chain, by running them one after the other without gradient."""
    inner, labels, columns = head.model.inner, carry.current["labels"].long(), []
    for chain in range(carry.state[1].shape[1]):
        state = alone(head, carry, torch.full((len(labels),), chain)).state
        with torch.no_grad():
            _, (logits, _, _) = inner(
                state, carry.current["inputs"], inner.puzzle_rows(carry.current).detach()
            )
        per_cell = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        columns.append(per_cell.sum(-1) / (labels != -100).sum(-1))
    return torch.stack(columns, 1)


def gradients(head) -> dict[str, torch.Tensor]:
    inner = head.model.inner
    found = {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}
    (leaf,) = [leaf for _, leaf in inner.puzzle_emb.leaves if leaf.grad is not None]
    return found | {"puzzle_emb": leaf.grad}


# One step


def test_a_step_is_that_of_the_chain_of_lowest_loss_alone():
    """Loss, metrics, outputs, halting and every gradient are those of a plain model in the winners' place."""
    head, plain = model(chains=3).train(), model().train()
    plain.load_state_dict(head.state_dict())
    carry = head.initial_carry(batch())
    winners, halts = [], []
    for seed in range(3):  # from the second call on some slots go on with an old puzzle
        data, least = batch(seed=seed), torch.tensor([0, 4] * (ROWS // 2), dtype=torch.int32)
        start = loaded(head, carry, data)
        losses = losses_of_chains(head, start)
        for m in (head, plain):
            m.zero_grad()
            m.model.inner.puzzle_emb.leaves.clear()
        carry, loss, sums, outputs = stepped(head, carry, data, least)
        loss.backward()
        torch.testing.assert_close(sums["lm_loss"], losses.min(1).values.sum())
        winners.append(losses.argmin(1))
        halts.append(carry.halted)
        one, loss_alone, sums_alone, outputs_alone = plain(alone(head, start, winners[-1]), data, least)
        loss_alone.backward()
        torch.testing.assert_close(loss, loss_alone)
        torch.testing.assert_close(sums, sums_alone)
        torch.testing.assert_close(outputs, outputs_alone)
        assert torch.equal(carry.halted, one.halted)
        assert torch.equal(carry.steps, one.steps)
        torch.testing.assert_close(carry.state[0], one.state[0])
        found, expected = gradients(head), gradients(plain)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, msg=name, rtol=1e-4, atol=1e-6)
    assert set(torch.cat(winners).tolist()) == {0, 1, 2}
    assert set(torch.stack(halts).flatten().tolist()) == {True, False}


@torch.no_grad()
def test_the_winners_answer_goes_on_in_all_chains_and_each_keeps_its_own_z():
    head = model(chains=2).train()
    data = batch()
    start = loaded(head, head.initial_carry(data), data)
    carry, *_ = stepped(head, head.initial_carry(data), data)
    assert [latent.shape for latent in carry.state] == [(ROWS, 7, 16), (ROWS, 2, 7, 16)]
    winner = losses_of_chains(head, start).argmin(1)
    inner, answers = head.model.inner, []
    for chain in (0, 1):
        state = alone(head, start, torch.full((ROWS,), chain)).state
        (answer, z), _ = inner(state, data["inputs"], inner.puzzle_rows(data))
        torch.testing.assert_close(carry.state[1][:, chain], z)
        answers.append(answer)
    torch.testing.assert_close(carry.state[0], torch.stack(answers, 1)[torch.arange(ROWS), winner])
    assert not torch.allclose(*answers)


def test_the_choice_is_by_the_smoothed_loss_where_that_is_trained():
    loss = ARCH["loss"] | {"label_smoothing": 0.6}
    head, plain = model(chains=4, loss=loss).train(), model(loss=loss).train()
    data = batch(100)
    start = loaded(head, head.initial_carry(data), data)
    _, _, sums, chosen = stepped(head, head.initial_carry(data), data)
    each = [plain(alone(head, start, torch.full((100,), chain)), data)[3]["logits"] for chain in range(4)]
    labels = data["labels"].long().expand(4, -1, -1).flatten(1)  # (4, 600)
    logits = torch.stack(each).flatten(1, 2)
    smoothed, sharp = (
        torch.stack(
            [
                F.cross_entropy(x, y, reduction="none", label_smoothing=share)
                for x, y in zip(logits, labels, strict=True)
            ]
        )
        .view(4, 100, 6)
        .sum(-1)
        / 5
        for share in (0.6, 0.0)
    )  # (4, 100)
    torch.testing.assert_close(sums["lm_loss"], smoothed.min(0).values.sum().detach())
    winner = smoothed.argmin(0)
    torch.testing.assert_close(chosen["logits"], torch.stack(each)[winner, torch.arange(100)])
    assert not torch.equal(winner, sharp.argmin(0))


# Starts


def test_a_reset_draws_another_z_for_every_chain_and_row_from_the_shared_first_answer():
    head = model(chains=3).train()
    data = batch(200)
    y, z = loaded(head, head.initial_carry(data), data).state
    assert torch.equal(y, head.model.inner.H_init.expand_as(y))
    assert z.shape == (200, 3, 7, 16)
    assert z.std().item() == pytest.approx(1, rel=0.02)
    assert z.abs().max() < 2.3  # truncated at two of the untruncated sigmas
    rows = z.flatten(0, 1).flatten(1)
    assert torch.corrcoef(rows).sub(torch.eye(600)).abs().max() < 0.6


@torch.no_grad()
def test_only_halted_slots_are_drawn_anew():
    head = model(chains=2).train()
    data = batch()
    carry, *_ = stepped(head, head.initial_carry(data), data)
    carry.halted = torch.arange(ROWS) < 3
    state = loaded(head, carry, batch(seed=1)).state
    for old, new in zip(carry.state, state, strict=True):
        assert torch.equal(old[3:], new[3:])
        assert not torch.equal(old[:3], new[:3])


@pytest.mark.parametrize("options", [{"random_init": True}, {"noise": 0.1, "damping": 0.05}])
def test_random_starts_and_noise_come_on_top(options):
    head = model(chains=2, **options).train()
    data = batch()
    y, z = loaded(head, head.initial_carry(data), data).state
    assert torch.equal(y[0], y[1]) == ("random_init" not in options)
    assert not torch.equal(z[:, 0], z[:, 1])
    _, loss, _, _ = stepped(head, head.initial_carry(data), data)
    assert loss.isfinite()


# Without chains, and in evaluation


def test_one_chain_is_the_model_without_the_option_bit_for_bit(identified, tmp_path):
    for name, overrides in {"plain": [], "one": ["arch.chains=1"]}.items():
        assert train(identified, tmp_path / name, *overrides) == 0
    assert_same_run(tmp_path / "one", tmp_path / "plain")


def test_weights_are_initialised_and_named_as_without_chains():
    plain, chained = model().state_dict(), model(chains=4).state_dict()
    assert list(plain) == list(chained)
    assert all(torch.equal(value, chained[name]) for name, value in plain.items())


@torch.no_grad()
def test_evaluation_runs_one_chain_whose_start_no_draw_and_no_neighbour_changes():
    head = model(chains=3).eval()
    seen: list[int] = []
    head.model.inner.L_level.register_forward_hook(lambda _, args, out: seen.append(len(out)))

    def answers(data) -> torch.Tensor:
        carry = head.initial_carry(data)
        for _ in range(2):
            carry, _, _, outputs = head(carry, data)
        return outputs["logits"]

    data = batch()
    first = answers(data)
    assert set(seen) == {ROWS}
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(answers(data), first)
    assert torch.equal(torch.get_rng_state(), before)
    some = answers({name: value[[5, 2]] for name, value in data.items()})
    torch.testing.assert_close(some, first[[5, 2]])
    state = head.model.inner.initial_state(2)
    assert state[1].std().item() == pytest.approx(1, rel=0.2)  # a draw, not L_init
    assert not torch.equal(state[1][0, 0], state[1][0, 1])
    assert not torch.equal(first, answers_of(model().eval(), data))


def answers_of(head, data) -> torch.Tensor:
    carry = head.initial_carry(data)
    for _ in range(2):
        carry, _, _, outputs = head(carry, data)
    return outputs["logits"]


def test_every_tool_opens_a_run_with_chains_and_gets_the_score_of_its_training(
    sudoku4x4, tmp_path, monkeypatch, capsys
):
    folder, overrides = tmp_path / "run", ["arch.chains=2", "augment=online", "arch.puzzle_emb_ndim=0"]
    assert train(sudoku4x4, folder, *overrides, ema=True) == 0
    (*_, logged) = (line for line in metrics(folder) if "test/accuracy" in line)
    report = run_evaluation(
        parse(EvaluateConfig, {"checkpoint": str(folder), "device": "cpu", "out": str(tmp_path / "report")}),
        World(),
    )
    assert report["metrics"]["test/lm_loss"] == pytest.approx(logged["test/lm_loss"], rel=1e-5)
    assert report["metrics"]["test/exact_accuracy"] == logged["test/exact_accuracy"]
    solve.main(["device=cpu", f"checkpoint={folder}", "puzzle=12..34....3..3.2"])
    assert "step" in capsys.readouterr().out
    export(ExportConfig(checkpoint=str(folder), out=str(tmp_path / "exported")))
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["recipe"]["arch"]["chains"] == 2
    one, two = (models.load_pretrained(str(place)) for place in (folder, tmp_path / "exported"))
    tokens = torch.randint(1, 6, (3, 16), dtype=torch.int32)
    data = {"inputs": tokens, "labels": tokens, "puzzle_identifiers": torch.zeros(3, dtype=torch.int32)}
    assert torch.equal(answers_of(one, data), answers_of(two, data))


# Runs


RUNS = {
    "alone": ["arch.chains=2"],
    "with noise": [
        "arch.chains=3",
        "arch.noise=0.1",
        "arch.damping=0.05",
        "arch.random_init=True",
        "grad_accum_steps=2",
    ],
    "with muon": [
        "arch.chains=2",
        "optimizer=muon",
        "arch.ffn=rms_swiglu",
        "supervision_steps_per_update=2",
        "arch.loss.label_smoothing=0.2",
    ],
    "q_learning": ["arch.chains=2", "arch.halting=q_learning", "activation_checkpointing=True"],
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_runs_with_chains_resume_exactly(identified, tmp_path, monkeypatch, overrides):
    assert train(identified, tmp_path / "reference", *overrides, ema=True) == 0
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 3, terminate)
        assert train(identified, tmp_path / "run", *overrides, ema=True) == STOPPED
    (carry, *_) = newest_state(tmp_path / "run")["rank"]["carries"]
    assert carry["state.z_L"].ndim == 4
    assert train(identified, tmp_path / "run", *overrides, ema=True, resume="auto") == 0
    assert_same_run(tmp_path / "run", tmp_path / "reference")


def test_chains_are_counted_as_one_puzzle(identified, tmp_path):
    """With one supervision step per puzzle every row halts at every step: as many counts as rows, chains or not."""
    counts = []
    for chains in (1, 3):
        run = build(
            tiny(identified, tmp_path / "run", f"arch.chains={chains}", "arch.halt_max_steps=1"), World()
        )
        (_, first, _) = next(iter(run.train_data.batches(1)))
        carry = run.state.model.initial_carry(first)
        _, _, sums, outputs = run.state.model(carry, first)
        counts.append(float(sums["count"]))
        assert float(sums["steps"]) == counts[-1]
        assert outputs["logits"].shape[0] == outputs["preds"].shape[0] == 8
    assert counts == [8.0, 8.0]


def test_two_ranks_train_chains_of_their_own_rows(identified, tmp_path):
    folder, overrides = tmp_path / "run", ["arch.chains=2"]
    outputs_of(run_ranks(tmp_path, run_training, identified, folder, overrides, {}, size=2))
    assert metrics(folder)[-1]["test/lm_loss"] > 0
    carries = [newest_state(folder, rank)["rank"]["carries"][0]["state.z_L"] for rank in (0, 1)]
    assert carries[0].shape == carries[1].shape == (4, 2, 5, 16)
    assert not torch.equal(*carries)


# Where there are none


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_with_a_second_latent_train_chains_and_the_others_refuse(identified, tmp_path, name):
    small = {"arch.L_cycles=2", "arch.H_layers=1", "arch.chains=2"}
    if name in ("hrm", "transformers_baseline", "se_rrm"):
        small.add("arch.puzzle_emb_len=0")
    latents = ARCHITECTURES[name].latents
    overrides = [f"arch={name}", *sorted(small)]
    if len(latents) == 1:
        with pytest.raises(UserError, match=rf"arch\.chains: 2 chains .* which {name} has not: use 1"):
            tiny(identified, tmp_path / "run", *overrides)
        return
    assert train(identified, tmp_path / "run", *overrides, epochs=2, eval_interval=2) == 0
    assert metrics(tmp_path / "run")[-1]["test/lm_loss"] > 0


@pytest.mark.parametrize("chains", ["0", "-1", "1.5", "null"])
def test_impossible_numbers_of_chains_are_refused(identified, tmp_path, chains):
    with pytest.raises(UserError, match=r"arch\.chains: .* is not valid"):
        tiny(identified, tmp_path / "run", f"arch.chains={chains}")


def test_training_without_a_loss_to_choose_by_says_so():
    act = model(chains=2).train().model
    with pytest.raises(ValueError, match=r"arch\.chains=2 chooses chains by their loss: call the loss head"):
        act(act.initial_carry(batch()), batch())
