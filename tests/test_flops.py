"""FLOP counts compared with torch's counter, for every architecture."""

from __future__ import annotations

import json

import pytest
import torch
from test_inference import arch_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from training_runs import in_process_command, metrics, tiny, train

import evaluate
from evaluators.reports.training_cost import cost_in_words, training_cost
from export import ExportConfig, export
from models.architectures import ARCHITECTURES
from models.flops import count_applications, step_flops, training_flops
from models.registry import build_model
from models.train.step import train_step
from trained_run import open_trained
from training_run import build
from utils.distributed import World
from utils.strict_model import parse

SIZES = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 3}


def model(name: str, **settings):
    settings = {"H_cycles": 2, "L_cycles": 3, "forward_dtype": "float32"} | settings
    if name == "transformers_baseline":
        settings["H_layers"] = 2
    return build_model(arch_of(name, **settings), **SIZES)


def counted(head, num_rows: int) -> int:
    """Return torch's count for one supervision step of training, forward and backward."""
    inputs = torch.randint(1, 6, (num_rows, 16), generator=torch.Generator().manual_seed(0)).int()
    batch = {"inputs": inputs, "labels": inputs, "puzzle_identifiers": torch.zeros(num_rows).int()}
    head.train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, loss, _, _ = head(head.initial_carry(batch), batch)
        loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_count_equals_torchs_count(name):
    head = model(name)
    assert 5 * training_flops(head.act) == counted(head, 5)


@pytest.mark.parametrize(
    "settings",
    [{"mlp_t": True, "pos_encodings": "none"}, {"halting": "q_learning"}, {"L_layers": 3}],
    ids=str,
)
def test_the_count_equals_torchs_count_with_other_settings(settings):
    head = model("trm", **settings)
    assert 5 * training_flops(head.act) == counted(head, 5)


def test_recomputation_by_checkpointing_is_counted():
    head = model("trm")
    head.architecture.activation_checkpointing = True
    assert 5 * training_flops(head.act) == counted(head, 5)


def test_the_count_depends_on_the_depth_and_does_not_change_the_recursion():
    inner = model("trm").architecture
    assert count_applications(inner) == {"L_level": (4, 4)}
    inner.H_cycles, inner.L_cycles = 3, 6
    assert count_applications(inner) == {"L_level": (14, 7)}
    assert "f" not in vars(inner)


def test_a_run_logs_its_cost_and_continues_counting_when_resumed(sudoku4x4, tmp_path):
    assert train(sudoku4x4, tmp_path / "whole", epochs=4) == 0
    assert train(sudoku4x4, tmp_path / "run", epochs=2) == 0
    assert train(sudoku4x4, tmp_path / "run", resume="auto", epochs=4) == 0
    lines = [line for line in metrics(tmp_path / "run") if "train/flops" in line]
    whole = [line for line in metrics(tmp_path / "whole") if "train/flops" in line]
    per_step = {line["train/flops"] / line["step"] for line in lines}
    assert len(per_step) == 1
    assert lines[-1]["train/flops"] == whole[-1]["train/flops"]
    assert lines[-1]["train/puzzles"] == whole[-1]["train/puzzles"] > 0


def test_puzzles_are_counted_over_the_whole_run(identified, tmp_path):
    every_row_halts = "arch.halt_max_steps=1"
    assert train(identified, tmp_path / "run", every_row_halts, epochs=2) == 0
    assert train(identified, tmp_path / "run", every_row_halts, resume="auto", epochs=4) == 0
    lines = [line for line in metrics(tmp_path / "run") if "train/puzzles" in line]
    assert [line["train/puzzles"] for line in lines] == [8 * line["step"] for line in lines]


def test_each_depth_of_a_curriculum_is_measured_once_and_each_update_uses_its_depth(
    identified, tmp_path, monkeypatch
):
    deep = ["arch.H_cycles=3", "arch.L_cycles=3"]
    run = build(tiny(identified, tmp_path / "run", *deep, depth_curriculum=True), World())
    state, counts = run.state, []

    def counted(act):
        counts.append((act.inner.H_cycles, act.inner.L_cycles))
        return training_flops(act)

    monkeypatch.setattr("models.train.step.training_flops", counted)
    batches, total = list(run.train_data.batches(1)), state.optimizers.settings.total_steps
    expected = 0
    for step in range(total):
        with state.curriculum.applied(state.model.architecture, step + 1):
            expected += 8 * training_flops(state.model.act)
        train_step(state, batches[step % len(batches)][1], World(), seed=0, global_batch_size=8)
        assert state.flops == expected
    assert counts == [(1, 2), (2, 2), (3, 3)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 seconds"), (29.4, "29 seconds"), (119, "119 seconds"), (7_380, "123 minutes")],
)
def test_the_duration_of_a_short_training_is_given_in_seconds(seconds, text):
    assert cost_in_words({"steps": 4_000, "seconds": seconds}) == f"4,000 steps, {text}"


def test_evaluations_and_exports_report_the_cost_of_training(sudoku4x4, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert train(sudoku4x4, run, epochs=4) == 0
    logged = [line for line in metrics(run) if "train/flops" in line]
    middle = next(line["step"] for line in metrics(run) if "test/accuracy" in line)
    cost = training_cost(open_trained(str(run), step=middle))
    assert cost["flops"] == next(line["train/flops"] for line in logged if line["step"] == middle)
    assert (cost["steps"], cost["distinct_puzzles"]) == (middle, 40)

    arguments = f"checkpoint={run}", f"out={tmp_path / 'report'}"
    assert in_process_command(monkeypatch, tmp_path, *arguments, entry=evaluate) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["training"]["flops"] == logged[-1]["train/flops"]
    inner = open_trained(str(run)).build().architecture
    assert report["flops_per_puzzle"] == 3 * step_flops(inner, training=False)

    folder = export(parse(ExportConfig, {"checkpoint": str(run), "out": str(tmp_path / "export")}))
    assert training_cost(open_trained(str(folder))) == report["training"]
    card = (folder / "README.md").read_text()
    assert f"| FLOP of training | {logged[-1]['train/flops']:.3g}" in card
    assert "| built-in knowledge of the rules | none |" in card
