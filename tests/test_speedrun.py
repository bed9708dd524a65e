"""The speedrun recipe at a small size: all options work together, also on resuming."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from stopped_runs import STOPPED, call_at, terminate
from training_runs import ROOT, assert_same_run, metrics

import pretrain
from config.overrides import force_overrides
from config.schema import PretrainConfig
from utils.distributed import World
from utils.strict_model import parse

SMALL = [
    "arch.hidden_size=16",
    "arch.num_heads=2",
    "arch.H_cycles=2",
    "arch.L_cycles=2",
    "arch.halt_max_steps=3",
    "arch.forward_dtype=float32",
    "global_batch_size=8",
    "epochs=4",
    "eval_interval=2",
    "ema_start_step=5",
    "log_interval=2",
    "device=cpu",
]


def config(data, *overrides: str) -> PretrainConfig:
    given = [f"data_paths=[{data}]", f"data_paths_test=[{data}]", *overrides]
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        composed = compose("cfg_pretrain", force_overrides(["+experiment=sudoku_extreme_speedrun", *given]))
    return parse(PretrainConfig, OmegaConf.to_container(composed, resolve=True))


def test_the_recipe_has_8000_updates_with_its_options():
    recipe = config("data/x")
    assert recipe.total_steps(1000, 1.0) == 8000
    assert recipe.num_iterations == 8
    assert recipe.optimizer.model_dump() == {
        "name": "muon",
        "lr": 0.02,
        "weight_decay": 0.005,
        "momentum": 0.6,
        "nesterov": True,
        "ns_steps": 3,
        "adjust_lr": "original",
        "rest": "adamw",
    }
    assert (recipe.lr, recipe.weight_decay, recipe.lr_min_ratio, recipe.lr_warmup_steps) == (1e-4, 1.0, 0, 0)
    assert (recipe.ema, recipe.ema_rate, recipe.ema_start_step, recipe.grad_clip) == (True, 0.9, 5000, 1.0)
    assert (recipe.augment, recipe.arch["mlp_t"], recipe.arch["ffn"]) == ("online", True, "rms_swiglu")
    assert (recipe.arch["H_cycles"], recipe.arch["L_cycles"], recipe.arch["halt_max_steps"]) == (6, 9, 16)
    assert recipe.arch["loss"] == {
        "name": "losses@ACTLossHead",
        "loss_type": "softmax_cross_entropy",
        "label_smoothing": 0.2,
        "q_halt_weight": 0.05,
    }


def test_the_recipe_trains_and_resumes_exactly(sudoku4x4, tmp_path, monkeypatch):
    def train(name: str) -> int:
        folder = [f"checkpoint_path={tmp_path / name}", "resume=auto"]
        return pretrain.train(config(sudoku4x4, *SMALL, *folder), World()).exit_code

    assert train("reference") == 0
    with monkeypatch.context() as patch:
        call_at(patch, "train_step", 7, terminate)
        assert train("run") == STOPPED
    assert train("run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "reference")
    lines = metrics(tmp_path / "run")
    assert lines[-1]["step"] == 20
    rates = [line["train/lr"] for line in lines if "train/lr" in line]
    assert rates[-1] == pytest.approx(0, abs=1e-9)
