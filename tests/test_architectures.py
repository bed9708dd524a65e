"""Each architecture from its config to reloaded weights: composing, training, evaluating, saving, compiling."""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import models
from config.overrides import force_overrides
from config.schema import PretrainConfig
from dataset.format import SplitWriter, write_identifiers
from evaluators.evaluation import evaluate
from models.architectures import ARCHITECTURES
from models.backends import choose_backend
from models.registry import architecture_class, build_model
from models.train.step import train_step
from pretrain import Run, build
from utils.distributed import World
from utils.errors import UserError
from utils.run_folder import create_run_folder
from utils.strict_model import parse
from utils.weights import read_state_dict

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests" / "data" / "my_module.py"
OWN = "my_module@MyModel"
EVERY = [*ARCHITECTURES, OWN]
SMALL = [
    "hidden_size=32",
    "num_heads=4",
    "H_cycles=2",
    "L_cycles=2",
    "L_layers=1",
    "H_layers=1",
    "forward_dtype=float32",
    "halt_max_steps=3",
]
HAS_NO_ATTENTION = ("trm_equivariant", "trm_local")
STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def users_module(tmp_path_factory):
    """Put the guide's example below models/, as a user would."""
    folder = tmp_path_factory.mktemp("below_models")
    shutil.copy(EXAMPLE, folder)
    models.__path__.append(str(folder))
    yield
    models.__path__.remove(str(folder))
    sys.modules.pop("models.my_module", None)


@pytest.fixture(scope="module", autouse=True)
def torch_settings():
    """Restore the determinism settings of torch, which `build` changes."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 6)):
        with SplitWriter(folder / split, seq_len=16, vocab_size=7) as writer:
            for i in range(count):
                rows = rng.integers(1, 7, (2, 1, 16))
                writer.add_group(rows[0], rows[1], np.array([1 + i % 4]))
            writer.close(5)
    write_identifiers(folder, ["<blank>", *"abcd"])
    return folder


@functools.cache
def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        return OmegaConf.to_container(compose("cfg_pretrain", force_overrides(list(overrides))), resolve=True)


def config_of(name: str, data: Path | str = "data", *overrides: str) -> PretrainConfig:
    """Return the shipped config with `arch=name` (for a user's class trm with `arch.name=`), reduced in size."""
    arch = [f"arch={name}"] if name in ARCHITECTURES else ["arch=trm", f"arch.name={name}"]
    settings = [s for s in SMALL if name not in HAS_NO_ATTENTION or "num_heads" not in s]
    small = [f"arch.{setting}" for setting in settings]
    run = [
        f"data_paths=[{data}]",
        "evaluators=[]",
        "global_batch_size=4",
        "epochs=8",
        "eval_interval=4",
        "lr=1e-3",
    ]
    given = [*arch, *small, *run, "lr_warmup_steps=1", "device=cpu", "ema=True", *overrides]
    return parse(PretrainConfig, composed(*given))


def batches(run: Run) -> list[dict[str, torch.Tensor]]:
    return [batch for _, batch, _ in run.train_data.batches(1)]


def train(run: Run, num_steps: int = STEPS) -> dict[str, float]:
    for batch in batches(run)[:num_steps]:
        train_step(run.state, batch, World(), seed=0, global_batch_size=4)
    return run.state.metrics.fetch()


@pytest.fixture(scope="module", params=EVERY)
def trained(request, data) -> Run:
    """Train every architecture for a few updates."""
    run = build(config_of(request.param, data), World())
    run.start = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    run.metrics = train(run)
    return run


@torch.no_grad()
def outputs(model, batch: dict[str, torch.Tensor], num_steps: int = 2) -> dict[str, torch.Tensor]:
    model.eval()
    carry = model.initial_carry(batch)
    for _ in range(num_steps):
        carry, _, _, named = model(carry, batch)
    return named


def assert_same_outputs(one, other, batch) -> None:
    ours, theirs = outputs(one, batch), outputs(other, batch)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def loaded_model(name: str, data: Path, **settings):
    """Build a model of the config's arch with `settings` and a random halting head.

    With its zero initialisation the target of q_continue is q_continue itself, and all rows are equal.
    """
    torch.manual_seed(0)
    arch = config_of(name, data).arch | settings
    model = build_model(arch, seq_len=16, vocab_size=7, num_puzzle_identifiers=5).eval()
    torch.nn.init.normal_(model.architecture.q_head.weight, std=0.1)  # so that sigmoid is not 1 in float32
    return model


def test_a_few_updates_change_every_parameter_and_report_finite_metrics(trained):
    assert trained.state.step == STEPS
    for name, parameter in trained.state.model.named_parameters():
        assert not torch.equal(parameter, trained.start[name]), name
    assert all(np.isfinite(value) for value in trained.metrics.values())
    assert {"train/lm_loss", "train/q_halt_loss"} <= trained.metrics.keys()


def test_only_puzzle_rows_of_the_batches_change(trained):
    if not trained.config.arch["puzzle_emb_ndim"]:
        assert not hasattr(trained.state.model.architecture, "puzzle_emb")
        return
    used = torch.cat([batch["puzzle_identifiers"] for batch in batches(trained)[:STEPS]]).unique()
    table = trained.state.model.architecture.puzzle_emb.weights
    moved = table.abs().sum(-1) > 0
    assert not moved[0]
    assert 0 < int(moved.sum()) <= len(used)
    assert set(moved.nonzero().flatten().tolist()) <= set(used.tolist())


@pytest.mark.parametrize("halting", ["null", "halt", "q_learning"])
@pytest.mark.parametrize("name", EVERY)
def test_every_row_of_every_trained_head_receives_gradient(name, halting, data):
    model = loaded_model(name, data, halting=None if halting == "null" else halting).train()
    batch = {
        "inputs": torch.arange(64).view(4, 16) % 7,
        "labels": torch.arange(64).view(4, 16) % 5,
        "puzzle_identifiers": torch.arange(1, 5),
    }
    batch = {key: value.int() for key, value in batch.items()}
    _, loss, metrics, _ = model(model.initial_carry(batch), batch)
    loss.backward()
    inner, learns = model.architecture, model.act.rule.learns_continue
    assert learns == (halting == "q_learning" or (halting == "null" and name == "hrm"))
    assert ("q_continue_loss" in metrics) == learns
    for parameter, rows in (
        (inner.lm_head.weight, range(len(inner.lm_head.weight))),
        (inner.embed_tokens.embedding_weight, range(len(inner.embed_tokens.embedding_weight))),
        (inner.q_head.weight, range(1 + learns)),
        (inner.q_head.bias, range(1 + learns)),
    ):
        for row in rows:
            assert parameter.grad[row].abs().sum() > 0, row
    if not learns:
        assert inner.q_head.weight.grad[1].abs().sum() == 0
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, parameter_name
    if not inner.prefix_len:
        return  # no puzzle embeddings
    leaves = inner.puzzle_emb.leaves  # q_learning looks one step ahead, without gradient
    gradients = [leaf.grad for _, leaf in leaves if leaf.grad is not None]
    assert len(gradients) == 1
    assert (gradients[0].abs().sum(-1) > 0).all()


def test_every_architecture_evaluates_on_the_test_split(trained):
    results = evaluate(trained.state.model, trained.test_data, World(), evaluators={})
    assert {"test/lm_loss", "test/accuracy", "test/exact_accuracy", "test/steps"} <= results.keys()
    assert all(np.isfinite(value) for value in results.values())
    assert 1 <= results["test/steps"] <= 3


def test_saved_weights_reload_to_identical_outputs(trained, tmp_path):
    create_run_folder(tmp_path, trained.config.model_dump(), trained.sizes, [])
    torch.save(trained.state.weights(), tmp_path / "step_4")
    reloaded = models.load_pretrained(tmp_path)
    with trained.state.ema.swapped_in():
        assert_same_outputs(trained.state.model, reloaded, batches(trained)[0])
    live = outputs(trained.state.model, batches(trained)[0])["logits"]
    assert not torch.equal(live, outputs(reloaded, batches(trained)[0])["logits"])  # the averages differ


def test_compiled_and_uncompiled_weights_are_interchangeable(trained, tmp_path):
    # Dynamo's tracing renames weights; the `eager` backend only skips code generation, which takes minutes.
    # Unrolling more cycles takes long, too.
    sizes, batch = trained.sizes, batches(trained)[0]
    arch = trained.config.arch | {"H_cycles": 1, "L_cycles": 1}
    plain, in_place, wrapped = (build_model(arch, **sizes) for _ in range(3))
    in_place.load_state_dict(trained.state.model.state_dict())
    in_place.architecture.backend = choose_backend(in_place.architecture, backend="eager")
    assert list(in_place.state_dict()) == list(plain.state_dict())
    wrapped = torch.compile(wrapped, backend="eager")
    torch.save(wrapped.state_dict(), tmp_path / "wrapped")
    assert all(name.startswith("_orig_mod.") for name in wrapped.state_dict())

    plain.load_state_dict(in_place.state_dict())
    assert_same_outputs(plain, in_place, batch)
    in_place.load_state_dict(read_state_dict(tmp_path / "wrapped"))
    plain.load_state_dict(read_state_dict(tmp_path / "wrapped"))
    assert_same_outputs(plain, in_place, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_generated_code_trains_and_answers_like_eager(name, data):
    from utils.device import missing_toolchain

    if missing := missing_toolchain():
        pytest.skip(f"torch.compile needs {missing}")
    runs = [build(config_of(name, data), World()) for _ in range(2)]
    inner = runs[1].state.model.architecture
    inner.backend = choose_backend(inner)
    for run in runs:
        train(run, 2)
    one, other = (run.state.model.state_dict() for run in runs)
    assert list(one) == list(other)
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_a_fresh_model_predicts_not_solved_and_never_halts(name, data):
    run = build(config_of(name, data), World())
    act, batch = run.state.model.act, batches(run)[0]
    carry = act.initial_carry(batch)
    for step in range(1, act.max_steps + 1):
        carry, found = act(carry, batch, torch.zeros(len(carry.steps), dtype=torch.int32))
        assert (found["q_halt_logits"] == -5).all()
        assert (found["q_continue_logits"] == -5).all()
        assert carry.halted.tolist() == [step == act.max_steps] * len(carry.halted)
    assert act.max_steps > 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_with_halting_in_evaluation_a_halted_row_stays_frozen(name, data):
    model = loaded_model(name, data, act_inference=True, halt_max_steps=6, halting="halt")
    batch = {
        "inputs": torch.randint(1, 7, (8, 16), dtype=torch.int32),
        "labels": torch.ones(8, 16, dtype=torch.int32),
        "puzzle_identifiers": torch.zeros(8, dtype=torch.int32),
    }
    inner = model.architecture
    with torch.no_grad():
        inner.q_head.bias.zero_()
        first = outputs(model, batch, num_steps=1)["q_halt_logits"]
        inner.q_head.bias[0] = -first.median() - 1e-4  # about half of the rows stop at the first step
        act, carry = model.act, model.act.initial_carry(batch)
        carry, before = act(carry, batch)
        stopped = carry.halted.clone()
        assert 0 < int(stopped.sum()) < 8
        for step in range(2, 7):
            earlier = carry
            carry, after = act(carry, batch)
            assert (carry.steps[stopped] == 1).all()
            assert carry.halted[stopped].all()
            for old, new in zip(earlier.state, carry.state, strict=True):
                assert torch.equal(old[stopped], new[stopped])
            assert torch.equal(before["logits"][stopped], after["logits"][stopped])
            going = ~earlier.halted
            assert (carry.steps[going] == step).all()
            assert not torch.equal(earlier.state[0][going], carry.state[0][going]) or not going.any()
        assert carry.halted.all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_without_halting_every_row_runs_all_steps_in_evaluation(name, data):
    model = loaded_model(name, data, halting="halt")
    torch.nn.init.constant_(model.architecture.q_head.bias, 100.0)
    batch = {
        "inputs": torch.ones(3, 16, dtype=torch.int32),
        "labels": torch.ones(3, 16, dtype=torch.int32),
        "puzzle_identifiers": torch.zeros(3, dtype=torch.int32),
    }
    carry = model.act.initial_carry(batch)
    for step in range(1, 4):
        carry, _ = model.act(carry, batch)
        assert carry.halted.tolist() == [step == 3] * 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["arch.name=my_module@Nothing"], "has no class Nothing"),
        (["arch.name=no_module@MyModel"], "there is no module models.no_module"),
        ([f"arch.name={OWN}", "arch.answer_cycles=0"], "arch.answer_cycles"),
        (
            [f"arch.name={OWN}", "arch.anser_cycles=2"],
            r"arch.anser_cycles: unknown key; nearest .*answer_cycles",
        ),
        (["arch.name=losses@ACTLossHead"], "must derive from models.recursive.RecursiveModel"),
        (["arch=trm_hier6", "arch.L_cycles=7"], "arch.L_cycles"),
        (["arch=hrm", "arch.puzzle_emb_len=16"], "arch.puzzle_emb_len"),
        (["arch.halting=sometimes"], "arch.halting"),
    ],
)
def test_a_wrong_architecture_setting_is_reported_by_name(overrides, message):
    with pytest.raises(UserError, match=message):
        config_of("trm", "data", *overrides)


def test_a_custom_architecture_has_its_own_settings_and_cycle(data):
    assert architecture_class(OWN).__name__ == "MyModel"
    once, twice = (loaded_model(OWN, data, answer_cycles=n) for n in (1, 2))
    trm = loaded_model("trm", data)
    batch = batches(build(config_of("trm", data), World()))[0]
    assert_same_outputs(once, trm, batch)  # TRM does one answer update per cycle
    assert not torch.equal(outputs(twice, batch)["logits"], outputs(trm, batch)["logits"])


def test_the_guide_shows_the_example_that_these_tests_run():
    assert EXAMPLE.read_text().strip() in (ROOT / "docs" / "guides" / "architecture.md").read_text()
