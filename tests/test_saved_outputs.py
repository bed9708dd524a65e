"""Saved outputs are written batch by batch and read as a single dict of tensors."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evaluators.saved_outputs import SavedOutputs
from utils.errors import UserError

ROOT = Path(__file__).parents[1]


def batch(start: int, rows: int) -> dict[str, torch.Tensor]:
    numbers = torch.arange(start, start + rows)
    return {
        "preds": numbers[:, None] * 10 + torch.arange(3),
        "logits": torch.randn(rows, 2, 3).bfloat16().transpose(1, 2),
        "q_halt_logits": numbers.float(),
    }


def test_rows_are_read_in_order_with_their_dtypes_and_no_parts_remain(tmp_path):
    path, parts = tmp_path / "run" / "step_1_all_preds.0", [batch(0, 4), batch(4, 3)]
    with SavedOutputs(path, ["preds", "logits", "q_halt_logits"]) as saved:
        for part in parts:
            saved.add(part)
        saved.write()
    loaded = torch.load(path, weights_only=True)
    assert list(loaded) == ["preds", "logits", "q_halt_logits"]
    for name, value in loaded.items():
        assert torch.equal(value, torch.cat([part[name] for part in parts]))
        assert value.dtype == parts[0][name].dtype
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_interrupted_evaluation_leaves_no_file(tmp_path):
    with SavedOutputs(tmp_path / "preds", ["preds"]) as saved:
        saved.add(batch(0, 2))
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="file"),
        SavedOutputs(tmp_path / "file" / "preds", ["preds"]) as saved,
    ):
        saved.add(batch(0, 2))


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA"), reason="needs a limit on anonymous memory")
def test_more_outputs_than_fit_into_memory_can_be_saved(tmp_path):
    program = """
import resource, sys, torch
from pathlib import Path
from evaluators.saved_outputs import SavedOutputs
def used():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmData:")[1].split()[0]) * 1024
rows = {"logits": torch.zeros(1000, 2500)}
with SavedOutputs(Path(sys.argv[1]), ["logits"]) as saved:
    saved.add(rows)
    resource.setrlimit(resource.RLIMIT_DATA, (used() + 60_000_000,) * 2)
    for _ in range(19):
        saved.add(rows)
    saved.write()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "preds")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "preds").stat().st_size > 200_000_000  # 20 batches of 10 MB with a limit of 60 MB
