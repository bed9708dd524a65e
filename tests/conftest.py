"""Tiny datasets shared by tests that train, built once per test process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.format import SplitWriter, write_identifiers

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="session")
def _no_wandb():
    """Disable W&B."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_DISABLED", "true")
        yield


@pytest.fixture(autouse=True)
def _same_determinism_as_before():
    """Restore torch's determinism settings, which runs in this process change."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def sudoku4x4(tmp_path_factory) -> Path:
    """Generate a dataset with 40 train puzzles, 2 copies each, one identifier and 13 test puzzles."""
    folder = tmp_path_factory.mktemp("data") / "sudoku4x4"
    options = ["--size", "4", "--generate", "40", "--num-aug", "2", "--test-size", "13", "--seed", "0"]
    script = ROOT / "dataset" / "build_sudoku_dataset.py"
    subprocess.run(
        [sys.executable, str(script), "--output-dir", str(folder), *options], check=True, capture_output=True
    )
    return folder


def write_identified(folder: Path, *, seed: int = 0, num_test: int = 7, names: str = "abcdef") -> Path:
    """Write rows of 4 tokens whose answer is the input plus a shift per puzzle, so that identifiers matter.

    Puzzles have 1 to 3 examples, groups have two puzzles, and each identifier is used by several puzzles.
    """
    rng = np.random.default_rng(seed)
    for split, num_groups in (("train", 12), ("test", num_test)):
        with SplitWriter(folder / split, seq_len=4, vocab_size=7) as writer:
            for group in range(num_groups):
                identifiers = 1 + np.array([2 * group, 2 * group + 1]) % len(names)
                lengths = np.array([1 + group % 3, 2]) if split == "train" else np.array([1, 0])
                identifiers, lengths = identifiers[lengths > 0], lengths[lengths > 0]
                inputs = rng.integers(1, 7, (lengths.sum(), 4))
                shifts = np.repeat(identifiers, lengths)[:, None]
                writer.add_group(inputs, 1 + (inputs + shifts) % 6, identifiers, lengths)
            writer.close(1 + len(names))
    write_identifiers(folder, ["<blank>", *names])
    return folder


@pytest.fixture(scope="session")
def identified(tmp_path_factory) -> Path:
    """A dataset with six identifiers, several examples per puzzle and 7 test examples."""
    return write_identified(tmp_path_factory.mktemp("data") / "identified")


@pytest.fixture(scope="session")
def undisturbed(identified, tmp_path_factory) -> Path:
    """The folder of a run on `identified` that was not stopped."""
    from stopped_runs import SETTINGS
    from training_runs import train

    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(identified, folder, **SETTINGS) == 0
    return folder


@pytest.fixture
def no_wandb_settings(monkeypatch, tmp_path):
    """Simulate a user who never logged in: no key in the environment, no netrc, no settings files."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "home" / "wandb"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    if "wandb" in sys.modules:  # it caches the environment and credentials per process
        import wandb

        wandb.teardown()
        wandb.sdk.lib.wbauth.unauthenticate_session()
        wandb.teardown()
