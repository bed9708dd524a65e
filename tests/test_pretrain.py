"""The training command: output, metrics, reproducibility, and effects of its options."""

from __future__ import annotations

import inspect
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import write_identified
from training_runs import (
    TINY,
    assert_equal,
    assert_same_run,
    in_process_command,
    metrics,
    newest_state,
    tiny,
    train,
)

import pretrain
from dataset.format import SplitWriter
from evaluators.evaluation import evaluate
from models.train import training_time
from models.train.metrics import METRICS, Metric
from models.train.step import TrainState, train_step
from puzzle_dataset import PuzzleDataset
from training_run import Run, build
from utils.distributed import World
from utils.errors import UserError


def batches_of(run: Run) -> list[dict[str, torch.Tensor]]:
    return [batch for _, batch, _ in run.train_data.batches(1)]


def steps(run: Run, num_steps: int, **settings) -> TrainState:
    for batch in batches_of(run)[:num_steps]:
        train_step(run.state, batch, World(), seed=0, global_batch_size=8, **settings)
    return run.state


# Reproducibility


def test_two_runs_are_equal_except_for_times_iff_they_have_the_same_seed(identified, tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        train(identified, tmp_path / name, ema=True, seed=seed)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert metrics(tmp_path / "one") != metrics(tmp_path / "other")


def test_a_dataset_without_identifier_names_can_be_trained_on(identified, tmp_path):
    data = shutil.copytree(identified, tmp_path / "data")
    (data / "identifiers.json").unlink()
    assert train(data, tmp_path / "run") == 0
    assert newest_state(tmp_path / "run")


def test_every_line_of_the_metrics_has_a_step_a_time_and_names(identified, tmp_path):
    train(identified, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(list(line)[:2] == ["step", "time"] for line in lines)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    training = [line for line in lines if "train/lr" in line]
    # An interval ends every 3 steps, before each evaluation and at the end; intervals do not overlap.
    evaluated = [line["step"] for line in lines if "test/accuracy" in line]
    last = evaluated[-1]
    assert [line["step"] for line in training] == sorted({*range(3, last + 1, 3), *evaluated})
    names = {"lm_loss", "q_halt_loss", "accuracy", "exact_accuracy", "q_halt_accuracy", "steps"}
    assert all(
        {f"test/{name}" for name in names} == line.keys() - {"step", "time"}
        for line in lines
        if line not in training
    )
    assert {f"train/{name}" for name in names | {"lr", "flops", "puzzles", "seconds"}} == set().union(
        *training
    ) - {"step", "time"}


def test_the_folder_of_a_run_documents_it(identified, tmp_path):
    folder = tmp_path / "run"
    train(identified, folder, "+run_name=my_run", eval_save_outputs=["preds", "labels"])
    config = yaml.safe_load((folder / "all_config.yaml").read_text())
    assert (config["run_name"], config["project_name"]) == ("my_run", "Identified-ACT-torch")
    assert config["arch"]["puzzle_emb_ndim"] == 16  # resolved
    assert (folder / "source" / "architectures.py").exists()
    last = metrics(folder)[-1]["step"]
    saved = torch.load(folder / f"step_{last}_all_preds.0", weights_only=True)
    # 7 rows in a batch of 8, without the padding row.
    assert saved["preds"].shape == saved["labels"].shape == (7, 4)
    correct = (saved["preds"] == saved["labels"]).float()
    assert metrics(folder)[-1]["test/accuracy"] == pytest.approx(correct.mean().item())
    weights = torch.load(folder / f"step_{last}", weights_only=True)
    assert "model.inner.L_level.layers.0.self_attn.qkv_proj.weight" in weights
    assert all(isinstance(value, torch.Tensor) for value in weights.values())


def test_unnamed_runs_get_different_names_for_any_seed(identified, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert train(identified, None, checkpoint_path=None, epochs=2) == 0
    runs = list((tmp_path / "checkpoints" / "Identified-ACT-torch").iterdir())
    assert len(runs) == 2
    assert all(re.fullmatch(r"TRM-[a-z]+-[a-z]+", run.name) for run in runs)


# The command itself


def test_keys_can_be_set_in_all_three_spellings(identified, tmp_path, monkeypatch):
    for i, plus in enumerate(("", "+", "++")):
        overrides = [f"{plus}run_name=r{i}", f"{plus}checkpoint_path=run{i}", f"{plus}epochs=2"]
        code = in_process_command(
            monkeypatch, tmp_path, *TINY, f"data_paths=[{identified}]", "eval_interval=2", *overrides
        )
        assert code == 0
        config = yaml.safe_load((tmp_path / f"run{i}" / "all_config.yaml").read_text())
        assert (config["run_name"], config["epochs"]) == (f"r{i}", 2)
    assert {path.name for path in tmp_path.iterdir()} == {"run0", "run1", "run2"}


def test_a_sweep_trains_every_combination_in_its_own_folder(identified, tmp_path, monkeypatch):
    sweep = ["lr=1e-3,1e-4", "seed=0,1", "checkpoint_path=checkpoints/lr_${lr}_seed_${seed}"]
    data = [f"data_paths=[{identified}]", "epochs=2", "eval_interval=2"]
    assert in_process_command(monkeypatch, tmp_path, "--multirun", *TINY, *data, *sweep) == 0
    runs = {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}
    assert runs == {f"lr_{lr}_seed_{seed}" for lr in ("0.001", "0.0001") for seed in (0, 1)}
    # Each run equals the same run on its own.
    train(identified, tmp_path / "alone", lr=1e-4, seed=1, epochs=2)
    assert_same_run(tmp_path / "checkpoints" / "lr_0.0001_seed_1", tmp_path / "alone")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "alone"}  # no outputs/, no multirun/


def test_a_training_that_is_too_long_for_a_cpu_says_so_before_its_first_step(
    identified, tmp_path, monkeypatch, capsys
):
    train(identified, tmp_path / "short")
    assert "the matrix products alone" not in capsys.readouterr().out
    monkeypatch.setattr(training_time, "SHORT", 0)
    monkeypatch.setattr(training_time, "product_rate", lambda dtype: 1e3)
    train(identified, tmp_path / "long")
    out = capsys.readouterr().out
    assert re.search(
        r"note: the matrix products alone take this CPU about \d+ days, [\d.,]+ s for each of", out
    )
    flops = next(
        line["train/flops"] for line in reversed(metrics(tmp_path / "long")) if "train/flops" in line
    )
    days = int(re.search(r"about (\d+) days", out)[1])
    assert days == round(flops / 1e3 / 86400)


def test_the_notice_is_for_cpus_only():
    long = 10**18, 10**3
    assert training_time.long_training_notice(*long, torch.device("cpu"), torch.float32)
    assert training_time.long_training_notice(*long, torch.device("cuda"), torch.float32) is None
    assert training_time.long_training_notice(10**9, 10**3, torch.device("cpu"), torch.float32) is None


def test_the_entry_point_stays_short():
    assert len(inspect.getsource(pretrain).splitlines()) <= 250


# Metrics


def test_training_metrics_are_means_over_the_interval_and_its_halted_rows(identified):
    """Compare with sums computed by hand from the loss head, step by step."""
    run, twin = (build(tiny(identified, "x"), World()) for _ in range(2))
    sums: dict[str, float] = {}
    state, model = twin.state, twin.state.model
    from models.act import draw_min_steps

    carry = None
    for step, batch in enumerate(batches_of(twin)[:4], start=1):
        carry = carry or model.initial_carry(batch)
        least = torch.from_numpy(draw_min_steps(0, step, 8, 0.5, 3))
        state.optimizers.schedule(step)
        carry, loss, named, _ = model(carry, batch, least)
        (loss / 8).backward()
        state.optimizers.step()
        state.optimizers.zero_grad()
        sums = {name: sums.get(name, 0) + value.item() for name, value in named.items()}
    logged = steps(run, 4).metrics.fetch()
    assert sums["count"] == 8  # at step 3 every row halts, at no other of the first four: q_halt starts at -5
    for name in ("lm_loss", "q_halt_loss"):
        assert logged[f"train/{name}"] == pytest.approx(sums[name] / (4 * 8))
    for name in ("accuracy", "exact_accuracy", "q_halt_accuracy", "steps"):
        assert logged[f"train/{name}"] == pytest.approx(sums[name] / 8)
    assert logged["train/steps"] == 3


def test_each_fetch_starts_from_zero(identified):
    whole, halves = (build(tiny(identified, "x"), World()) for _ in range(2))
    expected = steps(whole, 4).metrics.fetch()
    fetched = []
    for batch in batches_of(halves)[:4]:
        train_step(halves.state, batch, World(), seed=0, global_batch_size=8)
        fetched.append(halves.state.metrics.fetch())
    assert sum(one["train/lm_loss"] for one in fetched) / 4 == pytest.approx(expected["train/lm_loss"])
    assert [one["train/steps"] for one in fetched if "train/steps" in one] == [3]


def test_a_metric_is_a_mean_over_its_declared_rows(identified, monkeypatch):
    """No row halts at steps 1, 2 and 4; all 8 rows halt at step 3, their third step."""
    monkeypatch.setitem(METRICS, "halted", Metric(lambda rows: rows.steps == 3))
    monkeypatch.setitem(METRICS, "all", Metric(lambda rows: rows.steps == 3, over="all"))
    logged = steps(build(tiny(identified, "x"), World()), 4).metrics.fetch()
    assert (logged["train/halted"], logged["train/all"]) == (1, 1 / 4)


def test_metrics_over_halted_rows_are_omitted_if_no_row_halted(identified, tmp_path):
    train(identified, tmp_path / "run", "arch.halt_max_steps=16", log_interval=2, epochs=2)
    first = metrics(tmp_path / "run")[0]
    assert first["step"] == 2
    cost = {"train/flops", "train/puzzles"}
    assert first.keys() == {"step", "train/lm_loss", "train/q_halt_loss", "train/lr"} | cost


def test_test_steps_counts_to_the_first_stop_but_answers_are_from_the_last_step(identified, monkeypatch):
    run = build(tiny(identified, "x", "arch.halt_max_steps=4"), World())
    inner = run.state.model.architecture
    calls = []
    # Rows say stop at step 1, 3, 2, never, 1, 1, 4; q_halt may decrease afterwards.
    says = torch.tensor(
        [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]]
    )
    heads = inner.heads

    def written_down(state):
        logits, _, q_continue = heads(state)
        step = len(calls) % 4
        calls.append(step)
        rows = torch.cat([says, says.new_ones(logits.shape[0] - 7, 4)])
        return (
            logits + 100.0 * step * torch.nn.functional.one_hot(torch.tensor(step), 7),
            rows[:, step] - 0.5,
            q_continue,
        )

    monkeypatch.setattr(inner, "heads", written_down)
    results = evaluate(run.state.model, run.test_data, World(), evaluators={}, save_outputs=())
    assert len(calls) == 4
    assert results["test/steps"] == pytest.approx((1 + 3 + 2 + 4 + 1 + 1 + 4) / 7)
    (_, batch, _) = next(iter(run.test_data.batches()))
    assert results["test/accuracy"] == pytest.approx((batch["labels"][:7] == 3).float().mean().item())


def test_padding_rows_are_ignored(identified, tmp_path):
    """The seven test rows give the same numbers in one padded batch of 8, in batches of 1, and in one of 7."""
    results = []
    for size in (8, 1, 7):
        run = build(tiny(identified, "x", global_batch_size=size), World())
        results.append(evaluate(run.state.model, run.test_data, World(), evaluators={}))
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-5)


def test_several_sets_are_reported_separately_and_pooled_by_rows(identified, tmp_path):
    second = write_identified(tmp_path / "second", seed=5, num_test=3)
    folder = tmp_path / "run"
    train(identified, folder, data_paths_test=[str(identified), str(second)], epochs=2)
    last = metrics(folder)[-1]
    parts = [last["test/identified/all/lm_loss"], last["test/second/all/lm_loss"]]
    assert last["test/lm_loss"] == pytest.approx((7 * parts[0] + 3 * parts[1]) / 10)
    alone = tmp_path / "alone"
    train(identified, alone, data_paths_test=[str(second)], epochs=2)
    assert metrics(alone)[-1]["test/lm_loss"] == pytest.approx(parts[1], rel=1e-6)


# Options


def test_accumulated_gradients_equal_those_of_the_large_batch(identified):
    whole, parts = (build(tiny(identified, "x", grad_accum_steps=n), World()) for n in (1, 4))
    one, two = steps(whole, 5), steps(parts, 5, grad_accum_steps=4)
    assert len(two.carries) == 4
    assert_close_models(one, two)
    ours, theirs = one.metrics.fetch(), two.metrics.fetch()
    assert ours == pytest.approx(theirs, rel=1e-4)


def assert_close_models(one: TrainState, two: TrainState, tolerance: float = 1e-5) -> None:
    others = two.model.state_dict()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, others[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arch", ["arch=trm", "arch=trm_hier6"])
def test_activation_checkpointing_changes_no_gradient_and_recomputes(identified, arch, dtype):
    gradients, applications = [], []
    overrides = arch, "arch.L_cycles=3", f"arch.forward_dtype={dtype}"
    for wanted in (False, True):
        run = build(tiny(identified, "x", *overrides, activation_checkpointing=wanted), World())
        network = run.state.model.architecture.L_level
        count = []
        network.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        batch = batches_of(run)[0]
        _, loss, _, _ = run.state.model(run.state.model.initial_carry(batch), batch)
        loss.backward()
        gradients.append({name: p.grad for name, p in run.state.model.named_parameters()})
        applications.append(len(count))
    assert_equal(*gradients)
    assert applications[1] > applications[0]


def test_frozen_weights_do_not_change_and_have_no_gradient_while_the_table_learns(identified, tmp_path):
    run = build(tiny(identified, "x", freeze_weights=True, ema=True), World())
    before = {name: value.clone() for name, value in run.state.model.state_dict().items()}
    state = steps(run, 5)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, before[name]) == ("puzzle_emb" not in name), name
    assert all(p.grad is None and not p.requires_grad for p in state.model.parameters())
    assert state.optimizers.by_name.keys() == {"puzzle_emb"}
    assert train(identified, tmp_path / "run", freeze_weights=True) == 0


def test_training_works_without_puzzle_embeddings(identified, tmp_path, capsys):
    assert train(identified, tmp_path / "run", "arch.puzzle_emb_ndim=0") == 0
    assert "puzzle_emb_lr and puzzle_emb_len have no effect" in capsys.readouterr().out
    state = newest_state(tmp_path / "run")
    assert state["shared"]["optimizers"].keys() == {"weights"}
    assert not any("puzzle_emb" in name for name in state["shared"]["model"])


def test_puzzles_are_distinguished_only_by_their_embeddings(identified):
    """Only the table rows of the batch change."""
    run = build(tiny(identified, "x", puzzle_emb_lr=0.1), World())
    batch = batches_of(run)[0]
    for _ in range(2):  # the first step's gradient may be zero where q_head and table are zero
        train_step(run.state, batch, World(), seed=0, global_batch_size=8)
    table = run.state.model.architecture.puzzle_emb.weights
    touched = torch.zeros(len(table), dtype=torch.bool)
    touched[batch["puzzle_identifiers"].long()] = True
    assert torch.equal(table.abs().sum(-1) > 0, touched)


def test_the_learning_rate_warms_up_and_follows_a_cosine_of_the_estimated_steps(identified, tmp_path):
    train(identified, tmp_path / "run", lr=0.1, lr_warmup_steps=4, lr_min_ratio=0.5, log_interval=1)
    metadata = PuzzleDataset([str(identified)], "train", global_batch_size=8).metadata
    total = int(4 * metadata.total_groups * metadata.mean_puzzle_examples / 8)
    rates = [line["train/lr"] for line in metrics(tmp_path / "run") if "train/lr" in line]
    assert rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    for step, rate in enumerate(rates[4:], start=5):
        progress = min(1, (step - 4) / (total - 4))
        assert rate == pytest.approx(0.1 * (0.5 + 0.25 * (1 + math.cos(math.pi * progress)))), step


def test_evaluation_uses_the_averages_and_training_continues_with_the_live_weights(identified, tmp_path):
    train(identified, tmp_path / "averaged", ema=True, ema_rate=0.99)
    train(identified, tmp_path / "live")
    one, two = metrics(tmp_path / "averaged"), metrics(tmp_path / "live")
    for ours, theirs in zip(one, two, strict=True):
        if "test/accuracy" in ours:
            assert ours["test/lm_loss"] != theirs["test/lm_loss"]
        else:
            assert ours == theirs


def test_evaluations_begin_with_the_requested_iteration(identified, tmp_path):
    train(identified, tmp_path / "run", min_eval_interval=2)
    assert sum("test/accuracy" in line for line in metrics(tmp_path / "run")) == 1
    assert len(list((tmp_path / "run").glob("step_*"))) == 1


def test_without_an_interval_there_is_one_evaluation_at_the_end(identified, tmp_path):
    train(identified, tmp_path / "run", eval_interval=None)
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines if "test/accuracy" in line] == [lines[-1]["step"]]


def test_training_and_averages_start_from_given_weights(identified, tmp_path):
    train(identified, tmp_path / "source", ema=True)
    weights = max((tmp_path / "source").glob("step_*"), key=lambda path: int(path.name[5:]))
    train(identified, tmp_path / "run", load_checkpoint=str(weights), ema=True, lr=0.0, puzzle_emb_lr=0.0)
    source = torch.load(weights, weights_only=True)
    state = newest_state(tmp_path / "run")["shared"]
    assert_equal(dict(state["model"]), dict(source))
    for name, average in state["ema"].items():
        torch.testing.assert_close(average, source[name], msg=name)


def test_the_evaluator_is_that_of_the_family_by_default(sudoku4x4, tmp_path):
    train(sudoku4x4, tmp_path / "by_family", evaluators=None, epochs=2)
    train(sudoku4x4, tmp_path / "none", evaluators=[], epochs=2)
    assert "sudoku/valid" in metrics(tmp_path / "by_family")[-1]
    assert not any(name.startswith("sudoku/") for name in metrics(tmp_path / "none")[-1])


# Numbers that are not finite


@pytest.fixture
def poisoned(monkeypatch):
    """Make the loss of one step infinite or NaN."""

    def at(step: int, value: float) -> None:
        from models.losses import ACTLossHead

        loss, calls = ACTLossHead.loss, []

        def injected(self, *args):
            total, named = loss(self, *args)
            if torch.is_grad_enabled():
                calls.append(1)
                if len(calls) == step:
                    total = total * value
                    named["lm_loss"] = named["lm_loss"] * value
            return total, named

        monkeypatch.setattr(ACTLossHead, "loss", injected)

    return at


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("interval", [None, 1])
def test_a_loss_that_is_not_finite_never_reaches_the_weights(identified, tmp_path, poisoned, value, interval):
    folder = tmp_path / "run"
    settings = {"ema": True, "log_interval": 4, "checkpoint_interval_steps": interval}
    train(identified, tmp_path / "good", **settings)
    poisoned(7, value)
    with pytest.raises(
        UserError,
        match=r"^step 7 \(batch 2 of iteration 2 of the training stream\): the loss or its gradient",
    ):
        train(identified, folder, **settings)
    # The state on disk is from before step 7: from the evaluation after step 5, or from step 6.
    state = newest_state(folder)["shared"]
    assert state["step"] == (5 if interval is None else 6)
    assert all(value.isfinite().all() for value in state["model"].values())
    for path in folder.glob("step_*"):
        good = torch.load(tmp_path / "good" / path.name, weights_only=True)
        assert_equal(torch.load(path, weights_only=True), good)


def test_weights_in_memory_stay_those_of_the_previous_step(identified, poisoned):
    clean, bad = (build(tiny(identified, "x", ema=True), World()) for _ in range(2))
    steps(clean, 2)
    poisoned(3, math.nan)
    state = steps(bad, 3)
    assert_equal(dict(state.model.state_dict()), dict(clean.state.model.state_dict()))
    assert_equal(state.ema.state_dict(), clean.state.ema.state_dict())
    assert_equal(
        state.optimizers.state_dict()["weights"]["state"],
        clean.state.optimizers.state_dict()["weights"]["state"],
    )


def test_an_absurd_learning_rate_reports_the_step_and_saves_no_broken_weights(identified, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"step \d+ .*not finite"):
        train(identified, folder, lr=1e15, epochs=40, eval_interval=2)
    for path in folder.glob("step_*"):
        assert all(value.isfinite().all() for value in torch.load(path, weights_only=True).values())


@pytest.mark.parametrize(
    ("copies", "counted"), [(1, "of 5 unseen puzzles"), (3, "of 15 test examples of 5 unseen puzzles")]
)
def test_a_run_ends_by_reporting_the_number_of_solved_test_examples(tmp_path, capsys, copies, counted):
    data = write_identified(tmp_path / "data")
    with SplitWriter(data / "test", seq_len=4, vocab_size=7) as writer:
        for _ in range(5):
            rows = np.ones((copies, 4), np.uint8)
            writer.add_group(rows, rows, np.arange(1, 1 + copies))
        writer.close(7)
    assert train(data, tmp_path / "run") == 0
    line = (tmp_path / "run" / "result.txt").read_text()
    assert counted in line
    assert line in capsys.readouterr().out
