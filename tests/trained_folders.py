"""Small run folders for tests, as written by our training or by the published code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from golden_files import load

from models.losses import ACTLossHead
from models.registry import PUBLISHED_NAMES, build_model

SIZES = {"seq_len": 16, "vocab_size": 7, "num_puzzle_identifiers": 1}
TINY_ARCH = {
    "name": "trm",
    "hidden_size": 32,
    "num_heads": 4,
    "H_cycles": 2,
    "L_cycles": 2,
    "L_layers": 1,
    "halt_max_steps": 4,
    "puzzle_emb_ndim": 32,
    "puzzle_emb_len": 2,
    "forward_dtype": "float32",
}
# The top level of a published all_config.yaml.
PUBLISHED_TOP = {
    "data_paths": ["data/arc-aug-1000"],
    "data_paths_test": [],
    "evaluators": [{"name": "arc@ARC"}],
    "global_batch_size": 768,
    "epochs": 100000,
    "eval_interval": 10000,
    "checkpoint_every_eval": True,
    "lr": 0.0001,
    "lr_min_ratio": 1.0,
    "lr_warmup_steps": 2000,
    "beta1": 0.9,
    "beta2": 0.95,
    "weight_decay": 0.1,
    "puzzle_emb_weight_decay": 0.1,
    "puzzle_emb_lr": 0.01,
    "seed": 0,
    "min_eval_interval": 0,
    "ema": True,
    "ema_rate": 0.999,
    "freeze_weights": False,
    "project_name": "Arc-aug-1000-ACT-torch",
    "run_name": "TinyRecursiveReasoningModel_ACTV1 tall-owl",
    "checkpoint_path": "checkpoints/x",
    "load_checkpoint": None,
    "eval_save_outputs": [],
}


def randomised(arch: dict[str, Any] = TINY_ARCH, sizes: dict[str, int] = SIZES, seed: int = 0) -> ACTLossHead:
    """Build a model with random heads and puzzle table, so that every weight affects its answers."""
    torch.manual_seed(seed)
    model = build_model(arch, **sizes)
    inner = model.architecture
    torch.nn.init.normal_(inner.q_head.weight)
    if hasattr(inner, "puzzle_emb"):
        torch.nn.init.normal_(inner.puzzle_emb.weights)
    return model.eval()


def write_run(
    folder: Path,
    model: ACTLossHead,
    arch: dict[str, Any] = TINY_ARCH,
    *,
    step: int = 10,
    metadata=None,
    **top: Any,
) -> Path:
    """Write a folder with all_config.yaml, step_{step} and metadata.json (omitted if None)."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / f"step_{step}")
    (folder / "all_config.yaml").write_text(yaml.safe_dump(PUBLISHED_TOP | top | {"arch": arch}))
    if metadata is not None:
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def published_arch(golden: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the `arch` section of the published run of a golden file, without data sizes."""
    settings = json.loads(str(golden["config_json"]))
    label = json.loads(str(golden["arch_json"]))["arch"]
    names = {ours: theirs for theirs, ours in reversed(PUBLISHED_NAMES.items())}
    ours = max((name for name in names if label.startswith(name)), key=len)
    loss = {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}
    sizes = ("seq_len", "vocab_size", "num_puzzle_identifiers", "batch_size")
    return {"name": names[ours], "loss": loss} | {k: v for k, v in settings.items() if k not in sizes}


def published_run(folder: Path, stem: str, prefix: str = "_orig_mod.") -> tuple[Path, dict[str, np.ndarray]]:
    """Write the folder of a published run with the weights of a golden file; also return that file."""
    golden = load(stem)
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        prefix + key[3:]: torch.from_numpy(value) for key, value in golden.items() if key.startswith("sd/")
    }
    torch.save(state, folder / "step_518071")
    config = PUBLISHED_TOP | {"arch": published_arch(golden)}
    (folder / "all_config.yaml").write_text(yaml.safe_dump(config))
    return folder, golden
