"""Parity with the published code: outputs, losses, gradients, EMA and three updates by `train_step`, file by file."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from golden_files import load, model_stems, rounding_noise

from models.act import ACTModel
from models.architectures import ARCHITECTURES
from models.losses import ACTLossHead
from models.optim.optimizers import Optimizers, OptimizerSettings
from models.train.ema import EMA
from models.train.metrics import MetricAccumulator
from models.train.step import TrainState, train_step
from utils.distributed import World

STEMS = model_stems()
FILES = pytest.mark.parametrize("stem", STEMS)


def build(golden: dict[str, np.ndarray]) -> ACTLossHead:
    """Build the model of a file with its weights and settings, ignoring keys unknown to the class."""
    label = json.loads(str(golden["arch_json"]))["arch"]
    name = max((name for name in ARCHITECTURES if label.startswith(name)), key=len)
    arch = ARCHITECTURES[name]
    settings = json.loads(str(golden["config_json"]))
    config = arch.Config(**{k: v for k, v in settings.items() if k in arch.Config.model_fields})
    model = ACTLossHead(ACTModel(arch(config)), json.loads(str(golden["arch_json"]))["loss"])
    weights = {k[3:]: torch.from_numpy(v) for k, v in golden.items() if k.startswith("sd/")}
    model.load_state_dict(weights, strict=True)
    return model


def batch_at(golden: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(golden[f"{prefix}/{k}"]) for k in ("inputs", "labels", "puzzle_identifiers")}


def outputs_at(prefix: str, carry, loss, metrics, outputs) -> dict[str, torch.Tensor]:
    named = {name: outputs[name] for name in outputs}
    named |= {"loss": loss, "halted": carry.halted, "steps": carry.steps}
    named |= {f"metrics/{name}": value for name, value in metrics.items()}
    return {f"{prefix}/{name}": value.detach().clone() for name, value in named.items()}


def train_state(model: ACTLossHead, settings: dict) -> TrainState:
    """Create a training state with the settings of a file and a constant learning rate."""
    adam, sign = settings["adam"], settings["signsgd"]
    optimizers = Optimizers(
        model,
        OptimizerSettings(
            lr=adam["lr"],
            beta1=adam["betas"][0],
            beta2=adam["betas"][1],
            weight_decay=adam["weight_decay"],
            puzzle_emb_lr=sign["lr"],
            puzzle_emb_weight_decay=sign["weight_decay"],
            freeze_weights=False,
            lr_warmup_steps=0,
            lr_min_ratio=1.0,
            total_steps=1,
        ),
    )
    metrics = MetricAccumulator(
        model.metrics, settings["global_batch_size"], torch.device("cpu"), lambda tensor: tensor
    )
    return TrainState(model, optimizers, EMA(model, settings["ema_mu"]), metrics)


class Recorder(World):
    """A single-process world that records the outputs and gradients of each step before the update."""

    def __init__(self, state: TrainState):
        super().__init__()
        self.prefix, self.ours = "", {}
        self.model, self.table = state.model, getattr(state.model.architecture, "puzzle_emb", None)
        state.model.register_forward_hook(self.record_outputs)

    def record_outputs(self, model: ACTLossHead, arguments: tuple, results: tuple) -> None:
        self.ours |= outputs_at(self.prefix, *results)
        self.ours |= {
            f"{self.prefix}/current/{name}": value.clone() for name, value in results[0].current.items()
        }

    def sum_gradients(self, parameters) -> None:
        named = self.model.named_parameters()
        self.ours |= {f"{self.prefix}/grad/{name}": p.grad.clone() for name, p in named}
        if self.table is not None:
            ((ids, leaf),) = self.table.leaves
            self.ours |= {f"{self.prefix}/grad_local_weights": leaf.grad.clone()}
            self.ours |= {f"{self.prefix}/local_ids": ids}


@functools.lru_cache(maxsize=1)
def replay(stem: str) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """Return the file, and the values computed for its keys."""
    golden = load(stem)
    ours: dict[str, torch.Tensor] = {}
    model = build(golden)
    settings = json.loads(str(golden["arch_json"]))

    model.eval()
    with torch.no_grad():
        batch = batch_at(golden, "eval/batch")
        inner = model.architecture
        ours["eval/input_embeddings"] = inner.embed(batch["inputs"], inner.puzzle_rows(batch))
        carry = model.initial_carry(batch)
        num_steps = 0
        while num_steps == 0 or not carry.halted.all():
            carry, loss, metrics, outputs = model(carry, batch)
            ours |= outputs_at(f"eval/act{num_steps}", carry, loss, metrics, outputs)
            num_steps += 1
        ours["eval/num_act_steps"] = torch.tensor(num_steps)
        names = model.act.latent_names
        ours |= {f"eval/final_carry/{k}": v for k, v in zip(names, carry.state, strict=True)}

    state = train_state(model.train(), settings)
    recorder = Recorder(state)
    num_train = len({k.split("/")[1] for k in golden if k.startswith("train/step")})
    for i in range(num_train):
        recorder.prefix = prefix = f"train/step{i}"
        batch = batch_at(golden, f"{prefix}/batch")
        train_step(state, batch, recorder, seed=0, global_batch_size=settings["global_batch_size"])
        if "puzzle_emb" in state.optimizers.by_name:
            recorder.ours[f"{prefix}/puzzle_emb_weights"] = inner.puzzle_emb.weights.clone()
        parameters, averages = model.named_parameters(), state.ema.state_dict()
        recorder.ours |= {f"{prefix}/param/{name}": p.detach().clone() for name, p in parameters}
        recorder.ours |= {f"{prefix}/ema/{name}": p.clone() for name, p in averages.items()}
    ours |= recorder.ours
    moments = state.optimizers.by_name["weights"].state[inner.q_head.weight]
    for moment in ("exp_avg", "exp_avg_sq"):
        ours[f"train/final/opt_state/q_head.weight/{moment}"] = moments[moment]
    return golden, ours


def tolerance(stem: str, key: str, golden: dict[str, np.ndarray]) -> float:
    """Return the tolerance for rounding: 20 times the float32 noise of the reference, at least 1e-5."""
    noise = rounding_noise().get(stem)
    if noise is None:
        return 0.5 if is_bfloat16(golden) else 1e-4
    loosened = 3 if is_bfloat16(golden) else 1  # bfloat16 vectors allow only a loose comparison
    return loosened * max(1e-5, 20 * noise.get(key, 0.0))


def is_bfloat16(golden: dict[str, np.ndarray]) -> bool:
    return json.loads(str(golden["config_json"])).get("forward_dtype") == "bfloat16"


def compare(stem: str, selects) -> None:
    golden, ours = replay(stem)
    keys = [key for key in golden if selects(key)]
    assert keys, f"{stem} has no vector for this aspect"
    failures = []
    for key in keys:
        base, _, form = key.partition("@")
        value = ours[base].detach().cpu().double().numpy()
        expected = golden[key].astype(np.float64)
        limit = tolerance(stem, key, golden)
        if form == "sample":
            value = value.reshape(-1)[:: int(golden[f"{base}@stat"][2])]
        elif form == "stat":  # sums over the whole tensor accumulate rounding errors
            limit *= value.size
            value = np.array([value.sum(), np.square(value).sum(), expected[2]])
        assert value.shape == expected.shape, f"{key}: shape {value.shape}, expected {expected.shape}"
        if key.endswith("/preds") and is_bfloat16(golden):  # the argmax of near ties is arbitrary
            value, expected, limit = np.mean(value != expected), 0.0, 0.1
        difference = np.abs(value - expected).max(initial=0.0)
        if not difference <= limit:  # NaN fails
            failures.append(f"{key}: off by {difference:.3g}, allowed {limit:.3g}")
    assert not failures, f"{len(failures)} of {len(keys)} differ:\n" + "\n".join(failures[:20])


@FILES
def test_parameter_names_and_order_are_the_published_ones(stem):
    golden = load(stem)
    model = build(golden)
    assert [name for name, _ in model.named_parameters()] == json.loads(str(golden["param_names"]))
    assert list(model.state_dict()) == [key[3:] for key in golden if key.startswith("sd/")]


@FILES
def test_evaluation_outputs_match(stem):
    aspects = ("loss", "metrics")
    compare(
        stem,
        lambda key: (
            key.startswith("eval/")
            and "batch" not in key
            and key.split("/")[2:3] not in ([aspect] for aspect in aspects)
        ),
    )


@FILES
def test_losses_and_metrics_match(stem):
    compare(stem, lambda key: key.split("/")[2:3] in (["loss"], ["metrics"]))


@FILES
def test_training_outputs_and_halting_match(stem):
    names = {
        "logits",
        "preds",
        "q_halt_logits",
        "q_continue_logits",
        "target_q_continue",
        "halted",
        "steps",
        "current",
    }
    compare(stem, lambda key: key.startswith("train/step") and key.split("/")[2] in names)


@FILES
def test_gradients_match(stem):
    compare(stem, lambda key: (key.startswith("train/") and "/grad" in key) or key.endswith("local_ids"))


@FILES
def test_optimizer_steps_match(stem):
    compare(stem, lambda key: "/param/" in key or "puzzle_emb_weights" in key or "/opt_state/" in key)


@FILES
def test_ema_matches(stem):
    compare(stem, lambda key: "/ema/" in key)
