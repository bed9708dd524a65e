"""Training runs for tests: a tiny config, running in this process, and reading the output."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import pretrain
from config.overrides import force_overrides, run_command
from config.schema import PretrainConfig
from utils.distributed import World
from utils.strict_model import parse

ROOT = Path(__file__).parents[1]
TINY = [
    "arch.hidden_size=16",
    "arch.num_heads=2",
    "arch.H_cycles=2",
    "arch.L_cycles=1",
    "arch.L_layers=1",
    "arch.halt_max_steps=3",
    "arch.puzzle_emb_len=1",
    "arch.forward_dtype=float32",
    "arch.halt_exploration_prob=0.5",
    "device=cpu",
    "evaluators=[]",
    "global_batch_size=8",
    "lr=1e-3",
    "lr_warmup_steps=1",
    "log_interval=3",
]


@cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        config = compose("cfg_pretrain", force_overrides([*TINY, *overrides]))
    return OmegaConf.to_container(config, resolve=True)


def tiny(data: Path | list, folder: Path, *overrides: str, **values: Any) -> PretrainConfig:
    """Return the shipped config at a tiny size; `values` replace top-level keys, `overrides` are command-line ones."""
    paths = [str(path) for path in (data if isinstance(data, list) else [data])]
    given = {"data_paths": paths, "checkpoint_path": str(folder), "epochs": 4, "eval_interval": 2} | values
    return parse(PretrainConfig, deepcopy(_composed(overrides)) | given)


def train(data: Path | list, folder: Path, *overrides: str, **values: Any) -> int:
    """Train in this process and return the exit code."""
    return pretrain.train(tiny(data, folder, *overrides, **values), World()).exit_code


def metrics(folder: Path) -> list[dict[str, float]]:
    """Read the lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("time", "train/seconds")} for line in lines
    ]


def newest_state(folder: Path, rank: int = 0) -> dict[str, Any]:
    """Read the last full state of rank 0 and of `rank`, without names and times."""
    newest = max(folder.glob(f"state_step_*/*-rank_{rank}.pt"), key=lambda p: int(p.name.partition("-")[0]))
    shared = torch.load(newest.with_name(newest.name.replace(f"rank_{rank}", "shared")), weights_only=True)
    of_rank = torch.load(newest, weights_only=True)
    for key in ("facts", "seconds"):
        shared.pop(key)
    return {"shared": shared, "rank": of_rank}


def assert_equal(one: Any, two: Any, where: str = "") -> None:
    """Assert that nested containers are equal, with bit-identical tensors."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, pair in enumerate(zip(one, two, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    else:
        assert one == two, where


def assert_same_run(one: Path, two: Path, ranks: int = 1) -> None:
    """Assert that two runs have the same weights, last full state and metrics, except for times."""
    assert metrics(one) == metrics(two)
    for rank in range(ranks):
        assert_equal(newest_state(one, rank), newest_state(two, rank))
    for name in [path.name for path in two.glob("step_*")]:
        weights = [torch.load(folder / name, weights_only=True) for folder in (one, two)]
        assert_equal(*weights, name)


def command(
    *arguments: str, cwd: Path, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess:
    """Run `python pretrain.py ARGUMENTS` in the folder `cwd`."""
    return run_python(str(ROOT / "pretrain.py"), *arguments, cwd=cwd, timeout=timeout, **environment)


def run_python(*arguments: str, cwd: Path, timeout: float = 120, **environment: str):
    variables = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_DISABLED": "true"} | environment
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, timeout=timeout
    )


def in_process_command(monkeypatch, cwd: Path, *arguments: str, entry=pretrain) -> int:
    """Run `python pretrain.py ARGUMENTS` in the folder `cwd` without starting a new process; return the exit code."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", [f"{entry.__name__}.py", *arguments])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")  # restored afterwards, because the command sets it
    with root_logger_restored():
        try:
            run_command(entry.launch, entry.COMMAND)
        except SystemExit as end:
            return end.code or 0
    return 0


@contextmanager
def root_logger_restored() -> Iterator[None]:
    """Restore the root logger: Hydra's `--info` logs to the current stdout, which pytest closes after the test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
