"""`optimizer=`: which optimizer trains each parameter, sizes of updates, and exact resuming."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch
from stopped_runs import STOPPED, call_at, terminate
from training_runs import assert_same_run, metrics, newest_state, tiny, train

from config.resume import check_changes
from config.schema import PretrainConfig
from models.optim.configs import OPTIMIZERS
from models.train.step import train_step
from training_run import Run, build
from utils.distributed import World
from utils.errors import UserError
from utils.strict_model import parse

ROOT = Path(__file__).parents[1]
MUON = ["optimizer=muon", "optimizer.momentum=0.6", "optimizer.ns_steps=3", "optimizer.weight_decay=0.05"]


def built(data, folder, *overrides, **values) -> Run:
    return build(tiny(data, folder, *overrides, **values), World())


def one_update(run: Run) -> tuple[dict, dict]:
    """Return parameters before and after an update, and the gradients as seen by the optimizers."""
    before = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    gradients = {}
    step = run.state.optimizers.step

    def noting() -> None:
        step()
        gradients.update({n: p.grad.clone() for n, p in run.state.model.named_parameters()})

    run.state.optimizers.step = noting
    _, batch, _ = next(run.train_data.batches(1))
    train_step(run.state, batch, World(), seed=0, global_batch_size=8)
    return before, gradients


def newton_schulz(g: torch.Tensor, steps: int) -> torch.Tensor:
    """Compute the quintic iteration of Muon independently, in float64 on the singular values."""
    u, s, vh = torch.linalg.svd(g.double(), full_matrices=False)
    s = s / torch.linalg.vector_norm(s)
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vh


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_moves_block_matrices_along_the_orthogonalised_gradient(identified, tmp_path, adjust):
    run = built(
        identified, tmp_path / "run", *MUON, f"optimizer.adjust_lr={adjust}", "optimizer.nesterov=False"
    )
    before, gradients = one_update(run)
    after = dict(run.state.model.named_parameters())
    moved = [name for name in before if ".layers." in name]
    assert len(moved) == 4
    for name in moved:
        rows, columns = before[name].shape
        factor = {
            "original": math.sqrt(max(1, rows / columns)),
            "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
        }
        direction = newton_schulz(gradients[name], 3)
        expected = before[name] * (1 - 0.02 * 0.05) - 0.02 * factor[adjust] * direction
        step = (expected - before[name]).abs().max()
        # torch runs the iteration in bfloat16.
        torch.testing.assert_close(after[name].double(), expected.double(), rtol=0, atol=0.05 * step.item())


def test_the_rest_is_updated_by_its_own_optimizer(identified, tmp_path):
    """With bias correction, the first step of AdamW is lr·sign(g), and that of AdamATan2 lr/(1 - β1)·atan2(...)."""
    run = built(identified, tmp_path / "adamw", *MUON, lr=0.01, weight_decay=0.5)
    before, gradients = one_update(run)
    for name, after in run.state.model.named_parameters():
        if ".layers." not in name:
            g = gradients[name]
            expected = before[name] * (1 - 0.01 * 0.5) - 0.01 * g / (g.abs() + 1e-8)
            torch.testing.assert_close(after.detach(), expected, rtol=1e-4, atol=1e-6)
    both = []
    for overrides in ([*MUON, "optimizer.rest=adam_atan2"], []):
        run = built(identified, tmp_path / "atan2", *overrides)
        one_update(run)
        both.append({n: p.detach() for n, p in run.state.model.named_parameters() if ".layers." not in n})
    assert len(both[0]) == 4
    for name, value in both[0].items():
        assert torch.equal(value, both[1][name]), name


def test_each_group_follows_the_schedule_with_its_own_rate(identified, tmp_path):
    run = built(
        identified, tmp_path / "run", *MUON, lr=1e-3, lr_warmup_steps=4, puzzle_emb_lr=0.5, lr_min_ratio=0
    )
    optimizers = run.state.optimizers

    def rates() -> dict[str, float]:
        return {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.by_name.items()}

    assert optimizers.schedule(2) == pytest.approx(5e-4)
    assert rates() == pytest.approx({"weights": 5e-4, "matrices": 0.01, "puzzle_emb": 0.25})
    optimizers.schedule(optimizers.settings.total_steps)
    assert rates() == pytest.approx({"weights": 0, "matrices": 0, "puzzle_emb": 0}, abs=1e-12)


def test_the_published_choice_is_one_optimizer_for_all_weights_in_order(identified, tmp_path):
    run = built(identified, tmp_path / "run")
    weights = run.state.optimizers.by_name["weights"]
    assert list(run.state.optimizers.by_name) == ["puzzle_emb", "weights"]
    assert type(weights).__name__ == "AdamATan2"
    (group,) = weights.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in run.state.model.parameters()]


def test_every_optimizer_has_its_file_of_defaults_and_trains_each_weight_once(identified, tmp_path):
    files = ROOT.glob("config/optimizer/*.yaml")
    assert sorted(path.stem for path in files) == sorted(OPTIMIZERS)
    for name, choice in OPTIMIZERS.items():
        run = built(identified, tmp_path / "run", f"optimizer={name}")
        assert type(run.config.optimizer) is choice
        made = [o for key, o in run.state.optimizers.by_name.items() if key != "puzzle_emb"]
        trained = [id(p) for optimizer in made for group in optimizer.param_groups for p in group["params"]]
        assert sorted(trained) == sorted(map(id, run.state.model.parameters()))


@pytest.mark.parametrize("clip", [1e-3, 1e9])
def test_clipping_scales_the_gradient_down_to_the_norm_but_never_up(identified, tmp_path, clip):
    _, plain = one_update(built(identified, tmp_path / "plain"))
    _, clipped = one_update(built(identified, tmp_path / "clipped", grad_clip=clip))
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in plain.values()))
    assert 1e-3 < norm < 1e9
    for name, gradient in plain.items():
        torch.testing.assert_close(clipped[name], gradient * min(1, clip / norm), rtol=1e-4, atol=1e-12)


def test_clipping_does_not_make_gradients_finite(identified, tmp_path):
    run = built(identified, tmp_path / "run", grad_clip=1.0)
    before = {name: p.detach().clone() for name, p in run.state.model.named_parameters()}
    with torch.no_grad():
        run.state.model.architecture.lm_head.weight.fill_(math.inf)
    _, batch, _ = next(run.train_data.batches(1))
    train_step(run.state, batch, World(), seed=0, global_batch_size=8)
    for name, p in run.state.model.named_parameters():
        assert name.endswith("lm_head.weight") or torch.equal(p, before[name]), name
    with pytest.raises(ValueError, match="step 1 "):
        run.state.metrics.fetch()


def test_averages_that_start_later_are_copies_until_then(identified, tmp_path):
    run = built(identified, tmp_path / "run", ema=True, ema_rate=0.5, ema_start_step=2)
    name = "model.inner.lm_head.weight"
    live = []
    for _, batch, _ in run.train_data.batches(1):
        train_step(run.state, batch, World(), seed=0, global_batch_size=8)
        live.append(dict(run.state.model.named_parameters())[name].detach().clone())
        shadow = run.state.ema.shadow[name]
        if len(live) <= 2:
            assert torch.equal(shadow, live[-1])
        elif len(live) == 4:
            torch.testing.assert_close(shadow, 0.25 * live[1] + 0.25 * live[2] + 0.5 * live[3])
            return
    raise AssertionError("too few steps")


OPTIONS = {
    "muon": [*MUON, "grad_clip=0.5", "lr_min_ratio=0"],
    "muon with AdamATan2": [*MUON, "optimizer.rest=adam_atan2", "arch.mlp_t=True"],
    "adamw": ["optimizer=adamw"],
    "late averages": ["ema=True", "ema_start_step=5"],
}


@pytest.mark.parametrize("overrides", OPTIONS.values(), ids=OPTIONS)
def test_every_choice_resumes_exactly(identified, tmp_path, monkeypatch, overrides):
    reference, folder = tmp_path / "reference", tmp_path / "run"
    assert train(identified, reference, *overrides) == 0
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 4, terminate)
        assert train(identified, folder, *overrides) == STOPPED
    assert train(identified, folder, *overrides, resume="auto") == 0
    assert_same_run(folder, reference)


def test_settings_changed_on_resuming_take_effect(identified, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 4, terminate)
        train(identified, tmp_path / "run", *MUON)
    seen = []
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 2, lambda: signal.raise_signal(signal.SIGTERM))
        train(identified, tmp_path / "run", *MUON, "optimizer.momentum=0.3", weight_decay=0.7, resume="auto")
    optimizers = newest_state(tmp_path / "run")["shared"]["optimizers"]
    seen = (
        optimizers["matrices"]["param_groups"][0]["momentum"],
        optimizers["weights"]["param_groups"][0]["weight_decay"],
    )
    assert seen == (0.3, 0.7)


def test_a_different_optimizer_on_resuming_is_rejected(identified, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 2, terminate)
        train(identified, tmp_path / "run")
    with pytest.raises(UserError, match=r"optimizer\.name: 'adam_atan2' in the checkpoint, 'muon' now"):
        train(identified, tmp_path / "run", *MUON, resume="auto")


def test_a_state_from_before_the_choice_of_optimizers_resumes(identified, tmp_path, monkeypatch):
    """Its config lacks newer keys, whose defaults equal the settings that it was trained with."""
    import training_run

    facts = training_run.run_metadata

    def old_facts(run: Run) -> dict:
        found = facts(run)
        for key in ("optimizer", "grad_clip", "ema_start_step"):
            del found["config"][key]
        return found

    with monkeypatch.context() as patch:
        patch.setattr("pretrain.run_metadata", old_facts)
        call_at(patch, "train_step", 2, terminate)
        train(identified, tmp_path / "run")
    assert train(identified, tmp_path / "run", resume="auto") == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": {"name": "sgd"}}, "optimizer: .*'adam_atan2', 'adamw', 'muon'"),
        (
            {"optimizer": {"name": "muon", "momentums": 1}},
            r"optimizer\.momentums: unknown key; .*optimizer\.momentum",
        ),
        ({"optimizer": {"name": "muon", "momentum": 1}}, r"optimizer\.momentum: 1 is not valid"),
        ({"optimizer": {"name": "adamw", "momentum": 0.9}}, r"optimizer\.momentum: unknown key"),
        ({"grad_clip": 0}, "grad_clip: 0 is not valid"),
        ({"freeze_weights": True, "grad_clip": 1}, "grad_clip applies to the weights"),
        ({"freeze_weights": True, "optimizer": {"name": "muon"}}, "optimizer=muon applies to the weights"),
        ({"ema_start_step": 5}, "ema_start_step=5 needs ema=True"),
    ],
)
def test_invalid_choices_are_rejected_with_a_message(identified, tmp_path, values, message):
    config = tiny(identified, tmp_path / "run").model_dump()
    with pytest.raises(UserError, match=message):
        parse(PretrainConfig, config | values)


def test_muon_reduces_the_loss(identified, tmp_path):
    train(identified, tmp_path / "run", *MUON, epochs=40, eval_interval=40, log_interval=10)
    losses = [line["train/lm_loss"] for line in metrics(tmp_path / "run") if "train/lm_loss" in line]
    assert losses[-1] < 0.9 * losses[0]


def test_an_optimizer_declares_the_keys_fixed_on_resume(identified):
    def muon(*overrides: str) -> dict:
        return tiny(identified, "run", "optimizer=muon", *overrides).model_dump()

    with pytest.raises(UserError, match=r"optimizer\.rest: 'adamw' in the checkpoint, 'adam_atan2' now"):
        check_changes(muon(), muon("optimizer.rest=adam_atan2"))
    assert check_changes(muon(), muon("optimizer.ns_steps=4")) == [
        "optimizer.ns_steps: 5 in the checkpoint, 4 now"
    ]
    with pytest.raises(UserError, match=r"optimizer\.name: 'muon' in the checkpoint, 'adamw' now"):
        check_changes(muon(), tiny(identified, "run", "optimizer=adamw").model_dump())
