"""`Solver`: one answer per supervision step, for every architecture and any number of steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from trained_folders import SIZES, TINY_ARCH, randomised

from evaluators.evaluation import run_steps
from evaluators.inference import Solver
from models.architectures import ARCHITECTURES
from models.registry import RecursiveConfig, architecture_class

NUM_ROWS = 6


def arch_of(name: str, **settings) -> dict:
    """Return the tiny settings that the architecture supports."""
    config: type[RecursiveConfig] = architecture_class(name).Config
    known = {key: value for key, value in TINY_ARCH.items() if key in config.model_fields}
    if name in ("hrm", "transformers_baseline", "se_rrm", "trm_equivariant", "trm_local"):
        known["puzzle_emb_len"] = 0  # derived, or not supported
    if name in ("se_rrm", "trm_equivariant", "trm_local"):
        known["puzzle_emb_ndim"] = 0
    if name in ("trm_equivariant", "trm_local"):
        known["num_heads"] = 1
    return known | {"name": name, "H_layers": 1} | settings


def rows(num_rows: int = NUM_ROWS, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, SIZES["vocab_size"], (num_rows, SIZES["seq_len"]), generator=seeded(seed)).int()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def undecided(name: str, **settings):
    """Build a model that halts at about half of its steps, for either halting rule."""
    model = randomised(arch_of(name, **settings))
    head = model.architecture.q_head
    with torch.no_grad():
        head.weight[1], head.bias[1] = 0, 0  # q_continue
        said = torch.stack([step.q_halt for step in Solver(model).refine(rows(64))])
        head.bias[0] -= said.median()
    return model


@torch.inference_mode()
def evaluated(model, tokens: torch.Tensor, ids: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Evaluate the same rows; return the outputs of the last step, and the first step that says stop."""
    return run_steps(model.act, {"inputs": tokens, "puzzle_identifiers": ids})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_last_step_equals_evaluation(name):
    sizes = SIZES | {"num_puzzle_identifiers": 3}
    model = randomised(arch_of(name), sizes)
    tokens, ids = rows(), torch.arange(NUM_ROWS) % 3
    steps = list(Solver(model).refine(tokens, ids))
    outputs, _ = evaluated(model, tokens, ids)
    assert [step.number for step in steps] == [1, 2, 3, 4]
    assert torch.equal(steps[-1].answer, outputs["preds"])
    torch.testing.assert_close(steps[-1].q_halt, outputs["q_halt_logits"])
    assert torch.equal(steps[-1].halt_probability, steps[-1].q_halt.sigmoid())


def test_a_stochastic_model_repeats_the_answers_of_evaluation():
    model = randomised(arch_of("trm", random_init=True, noise=0.5))
    tokens, ids = rows(), torch.zeros(NUM_ROWS, dtype=torch.int64)
    first, second = (list(Solver(model).refine(tokens, ids)) for _ in range(2))
    assert all(torch.equal(a.confidence, b.confidence) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0].confidence, first[-1].confidence)
    outputs, _ = evaluated(model, tokens, ids)
    assert torch.equal(outputs["q_halt_logits"], first[-1].q_halt)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_more_steps_than_trained_continue_the_trained_ones(name):
    short = undecided(name)
    long = randomised(arch_of(name, halt_max_steps=9))
    long.load_state_dict(short.state_dict())
    tokens, ids = rows(64), torch.zeros(64, dtype=torch.int32)
    steps = list(Solver(short).refine(tokens, max_steps=9))
    outputs, first_stop = evaluated(long, tokens, ids)
    assert len(steps) == 9
    assert torch.equal(steps[-1].answer, outputs["preds"])
    stops = torch.stack([step.says_stop for step in steps]).int()  # (steps, B)
    first = torch.where(stops.any(0), stops.argmax(0) + 1, 9)
    assert torch.equal(first, first_stop.long())
    assert stops.any()
    assert not stops.all()  # otherwise the comparison is meaningless


@pytest.mark.parametrize("loss_type", ["stablemax_cross_entropy", "softmax_cross_entropy"])
def test_confidence_is_the_probability_of_the_answer_for_the_trained_loss(loss_type):
    model = randomised(TINY_ARCH | {"loss": {"name": "losses@ACTLossHead", "loss_type": loss_type}})
    tokens = rows()
    step = next(Solver(model).refine(tokens, max_steps=1))
    with torch.no_grad():
        inner = model.architecture
        puzzle_rows = inner.puzzle_emb(torch.zeros(NUM_ROWS, dtype=torch.int32))
        _, (logits, _, _) = inner(inner.initial_state(NUM_ROWS), tokens, puzzle_rows)
    logits = logits.double()
    if loss_type == "softmax_cross_entropy":
        scores = logits.exp()
    else:
        scores = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    probabilities = scores / scores.sum(-1, keepdim=True)
    torch.testing.assert_close(step.confidence.double(), probabilities.amax(-1), rtol=1e-5, atol=1e-6)
    assert torch.equal(step.answer, probabilities.argmax(-1))


def test_steps_are_computed_lazily():
    model = randomised()
    calls = []
    model.architecture.register_forward_hook(lambda *_: calls.append(1))
    steps = Solver(model).refine(rows(), max_steps=1000)
    next(steps)
    next(steps)
    assert len(calls) == 2


def test_a_row_does_not_depend_on_other_rows():
    solver, tokens = Solver(randomised()), rows()
    together = solver.solve(tokens)
    alone = [solver.solve(tokens[i : i + 1]) for i in range(NUM_ROWS)]
    assert torch.equal(together.answer, torch.cat([solution.answer for solution in alone]))


def test_halting_keeps_the_answer_of_each_row_at_its_stop():
    solver, tokens = Solver(undecided("trm")), rows()
    steps = list(solver.refine(tokens, max_steps=12))
    stops = torch.stack([step.says_stop for step in steps])
    assert not stops.all(0).all()  # some rows continue for a while
    halted = solver.solve(tokens, max_steps=12, halt=True)
    full = solver.solve(tokens, max_steps=12)
    for row in range(NUM_ROWS):
        first = next((step.number for step in steps if step.says_stop[row]), 0)
        expected = steps[(first or 12) - 1]
        assert halted.first_stop[row] == full.first_stop[row] == first
        assert torch.equal(halted.answer[row], expected.answer[row])
        assert torch.equal(halted.confidence[row], expected.confidence[row])
        assert halted.q_halt[row] == expected.q_halt[row]
        assert torch.equal(full.answer[row], steps[-1].answer[row])


def test_halting_ends_when_every_row_has_stopped():
    model = randomised()
    with torch.no_grad():
        model.architecture.q_head.weight.zero_()
        model.architecture.q_head.bias.copy_(torch.tensor([1.0, 0.0]))
    solver = Solver(model)
    assert solver.solve(rows(), max_steps=50, halt=True).num_steps == 1
    assert solver.solve(rows(), max_steps=5, halt=False).num_steps == 5


def test_a_model_that_halts_in_evaluation_gives_the_same_answers():
    model = undecided("transformers_baseline", act_inference=True)
    tokens, ids = rows(64), torch.zeros(64, dtype=torch.int32)
    solution = Solver(model).solve(tokens)
    outputs, _ = evaluated(model, tokens, ids)
    assert torch.equal(solution.answer, outputs["preds"])
    assert (solution.first_stop > 0).any()
    assert not torch.equal(solution.answer, Solver(model).solve(tokens, halt=False).answer)


def test_identifiers_select_the_puzzle_embedding_and_the_blank_one_is_the_default():
    solver = Solver(randomised(sizes=SIZES | {"num_puzzle_identifiers": 3}))
    tokens = rows()
    first = {i: next(solver.refine(tokens, np.full(NUM_ROWS, i))).confidence for i in range(3)}
    assert torch.equal(next(solver.refine(tokens)).confidence, first[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])


def test_lists_and_arrays_are_accepted_as_tokens():
    solver, tokens = Solver(randomised()), rows()
    expected = solver.solve(tokens).answer
    for same in (tokens.tolist(), tokens.numpy(), tokens.numpy().astype(np.uint8)):
        assert torch.equal(solver.solve(same).answer, expected)


@pytest.mark.parametrize(
    ("tokens", "ids", "steps", "message"),
    [
        (rows()[:, :15], None, None, r"shape \(6, 15\), but must be \(rows, 16\)"),
        (rows()[0], None, None, r"shape \(16,\)"),
        (rows()[:0], None, None, r"shape \(0, 16\)"),
        (rows() + 1, None, None, r"tokens range from 2 to 7, but must be in 0..6"),
        (rows() - 2, None, None, r"tokens range from -1"),
        (rows(), [0] * 5, None, r"puzzle_identifiers have shape \(5,\), but must be \(6,\)"),
        (rows(), [1] * 6, None, r"puzzle_identifiers range from 1 to 1, but must be in 0..0"),
        (rows(), None, 0, r"max_steps is 0"),
    ],
)
def test_invalid_input_is_rejected_immediately(tokens, ids, steps, message):
    with pytest.raises(ValueError, match=message):
        Solver(randomised()).refine(tokens, ids, steps)
