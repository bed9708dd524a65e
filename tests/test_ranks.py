"""Training on several processes equals training on one, also on resuming; no process hangs if one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_identified
from ranks import outputs_of, run_ranks
from training_runs import ROOT, TINY, assert_same_run, metrics, newest_state, run_python, tiny

import pretrain
from models.optim import sparse_sign_sgd
from models.train.step import train_step
from training_run import build
from utils.distributed import World

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds workers in /proc")


def run_training(
    data: Path,
    folder: Path,
    overrides: list[str],
    values: dict[str, Any],
    stop_at: int = 0,
    q_bias: float | None = None,
) -> None:
    """Train on one rank; if `stop_at` is a step, only the last rank gets SIGUSR1 before it.

    With `q_bias` the halting head starts from that bias.
    """
    with World.start("cpu") as world:
        count = []

        def counting(state, *args, **kwargs):
            if not count and q_bias is not None:
                torch.nn.init.constant_(state.model.architecture.q_head.bias, q_bias)
            count.append(1)
            if len(count) == stop_at and world.rank == world.size - 1:
                signal.raise_signal(signal.SIGUSR1)
            return train_step(state, *args, **kwargs)

        pretrain.train_step = counting
        code = pretrain.train(tiny(data, folder, *overrides, **values), world).exit_code
    sys.exit(code)


def train_on(
    size: int,
    tmp_path: Path,
    data: Path,
    name: str,
    *overrides: str,
    stop_at: int = 0,
    q_bias: float | None = None,
    **values: Any,
):
    arguments = data, tmp_path / name, list(overrides), values, stop_at, q_bias
    results = run_ranks(tmp_path, run_training, *arguments, size=size)
    return [result.returncode for result in results], results


# Equality


# 9 test rows in batches of 8: the second rank has no row of the last batch. 7: it has one row fewer than the first.
@pytest.mark.parametrize(
    ("num_test", "overrides"), [(9, ["grad_clip=0.1", "optimizer=adamw"]), (7, ["grad_accum_steps=2"])]
)
def test_two_ranks_train_and_evaluate_like_one_process(tmp_path, num_test, overrides):
    """Rows say stop from the first step on (`q_bias`), so that exploration determines when they halt."""
    data = write_identified(tmp_path / "data", num_test=num_test)
    settings = {"ema": True, "ema_rate": 0.9, "log_interval": 1, "eval_save_outputs": ["preds", "inputs"]}
    for size in (1, 2):
        codes, results = train_on(
            size, tmp_path, data, f"{size}", "arch.puzzle_emb_ndim=0", *overrides, q_bias=1.0, **settings
        )
        assert codes == [0] * size, results[0].stderr
    lines = [metrics(tmp_path / name) for name in "12"]
    assert len(lines[0]) == len(lines[1])
    assert lines[0][-1]["step"] == 10
    mean_steps = [line["train/steps"] for line in lines[0] if "train/steps" in line]
    assert not all(mean.is_integer() for mean in mean_steps)  # rows of one update halt at different steps
    for one, two in zip(*lines, strict=True):
        assert one == pytest.approx(two, rel=1e-5, abs=1e-5)
    states = [newest_state(tmp_path / name)["shared"] for name in "12"]
    for part in ("model", "ema"):
        for key, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][key], value, rtol=1e-5, atol=1e-5, msg=f"{part} {key}")
    whole = torch.load(tmp_path / "1" / "step_10_all_preds.0", weights_only=True)
    parts = [torch.load(tmp_path / "2" / f"step_10_all_preds.{rank}", weights_only=True) for rank in (0, 1)]
    # Each batch of the stream is split in half; the rows of the first half are on rank 0.
    order = [i for rank in (0, 1) for i in range(num_test) if i % 8 // 4 == rank]
    assert [len(part["preds"]) for part in parts] == [
        sum(i % 8 // 4 == rank for i in range(num_test)) for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([part["inputs"] for part in parts]), whole["inputs"][order])


def record_sparse_gradients(data: Path, folder: Path) -> None:
    """Save the summed gradient of every touched row of the puzzle table in three steps without updates."""
    with World.start("cpu") as world:
        recorded, sum_by_id = [], sparse_sign_sgd.sum_by_id

        def recording(ids, rows):
            sums = sum_by_id(ids, rows)
            recorded.append((ids, sums))
            return sums

        sparse_sign_sgd.sum_by_id = recording
        run = build(tiny(data, folder, lr=0.0, puzzle_emb_lr=0.0), world)
        run.state.model.architecture.puzzle_emb.weights.normal_(generator=torch.Generator().manual_seed(1))
        for _, batch, _ in list(run.train_data.batches(1))[:3]:
            train_step(run.state, batch, world, seed=0, global_batch_size=8)
        torch.save(recorded, folder / f"{world.size}_{world.rank}")


def test_gradients_of_puzzle_embeddings_are_summed_over_all_rows_of_all_ranks(identified, tmp_path):
    for size in (1, 2):
        outputs_of(run_ranks(tmp_path, record_sparse_gradients, identified, tmp_path, size=size))
    one = torch.load(tmp_path / "1_0")
    for rank in (0, 1):
        two = torch.load(tmp_path / f"2_{rank}")
        assert len(two) == len(one) == 3
        for (ids, sums), (ids_two, sums_two) in zip(one, two, strict=True):
            assert torch.equal(ids, ids_two)
            assert sums.abs().sum() > 0
            torch.testing.assert_close(sums_two, sums, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_torchrun_trains_the_runs_of_a_sweep_in_turn(identified, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    launcher += ["--rdzv-endpoint=localhost:0", "--nnodes=1", str(ROOT / "pretrain.py"), "--multirun"]
    settings = [*TINY, f"data_paths=[{identified}]", "epochs=2", "eval_interval=2"]
    done = run_python(*launcher, *settings, "seed=0,1", "checkpoint_path=seed_${seed}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = [metrics(tmp_path / f"seed_{seed}")[-1] for seed in (0, 1)]
    assert results[0]["test/lm_loss"] != results[1]["test/lm_loss"]


# Stopping and resuming


# Within an iteration, and at its end, where the evaluation reads the vote.
@pytest.mark.parametrize("step", [3, 5])
def test_a_signal_to_one_rank_stops_all_and_the_run_resumes_exactly(identified, tmp_path, step):
    for name, stop_at in (("undisturbed", 0), ("run", step)):
        codes, results = train_on(2, tmp_path, identified, name, stop_at=stop_at, ema=True)
        assert codes == ([128 + signal.SIGUSR1] * 2 if stop_at else [0, 0]), results[0].stderr
    assert results[0].stdout.count("stopped by SIGUSR1 after step") == 1
    assert results[1].stdout == ""
    codes, results = train_on(2, tmp_path, identified, "run", ema=True, resume="auto")
    assert codes == [0, 0], results[0].stderr
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed", ranks=2)


def test_a_different_number_of_ranks_resets_the_carry_with_a_message(identified, tmp_path):
    train_on(2, tmp_path, identified, "run", stop_at=4)
    codes, (result,) = train_on(1, tmp_path, identified, "run", resume="auto")
    assert codes == [0]
    assert "was saved by 2 processes, this run has 1: the carry is reset" in result.stdout
    steps = [line["step"] for line in metrics(tmp_path / "run") if "test/accuracy" in line]
    assert steps == [5, 10]


# torchrun


def torchrun(cwd: Path, *overrides: str, options: tuple[str, ...] = ()) -> subprocess.Popen:
    """Start two processes as documented."""
    launcher = ["--nproc-per-node", "2", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", "--nnodes=1"]
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *launcher,
            *options,
            str(ROOT / "pretrain.py"),
            *overrides,
        ],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WANDB_DISABLED": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers_of(launcher: subprocess.Popen) -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ]


def wait_for(condition, launcher: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        if launcher.poll() is not None:
            pytest.fail(f"torchrun has ended:\n{launcher.stdout.read()}")
        time.sleep(0.02)


LONG = [
    "epochs=24",
    "eval_interval=12",
    "checkpoint_interval_steps=20",
    "log_interval=20",
    "checkpoint_path=run",
]


def test_an_error_is_reported_once_and_ends_every_rank(identified, tmp_path):
    launcher = torchrun(tmp_path, *TINY, f"data_paths=[{identified}]", "global_batch_size=7")
    out, _ = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert out.count("error: global_batch_size=7 must be a multiple of the number of processes (2)") == 1
    assert f'File "{ROOT}/pretrain.py' not in out


@needs_proc
def test_a_killed_worker_is_resumed_automatically_with_the_same_result(identified, tmp_path):
    data = [f"data_paths=[{identified}]", "ema=True", "resume=auto", *LONG]
    launcher = torchrun(tmp_path, *TINY, *data, options=("--max-restarts", "1"))
    try:
        wait_for(lambda: list(tmp_path.glob("run/state_step_*/*-rank_1.json")), launcher)
        os.kill(workers_of(launcher)[-1], signal.SIGKILL)
        out, _ = launcher.communicate(timeout=120)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, out
    assert "resume: continuing run/state_step_" in out
    values = {
        "epochs": 24,
        "eval_interval": 12,
        "checkpoint_interval_steps": 20,
        "log_interval": 20,
        "ema": True,
    }
    codes, results = train_on(2, tmp_path, identified, "undisturbed", **values)
    assert codes == [0, 0], results[0].stderr
    assert_same_run(tmp_path / "run", tmp_path / "undisturbed", ranks=2)


@needs_proc
def test_a_killed_rank_ends_the_run_long_before_the_timeout_of_collectives(identified, tmp_path):
    launcher = torchrun(tmp_path, *TINY, f"data_paths=[{identified}]", *LONG)
    try:
        wait_for(lambda: list(tmp_path.glob("run/state_step_*/*-rank_1.json")), launcher)
        os.kill(workers_of(launcher)[-1], signal.SIGKILL)
        out, _ = launcher.communicate(timeout=60)  # it usually takes one second
    finally:
        launcher.kill()
    assert launcher.returncode != 0
    assert out.count("lost contact with another rank") == 1, out
    assert out.count("loss") == 0 or 'Traceback (most recent call last):\n  File "' + str(ROOT) not in out


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


WITHOUT_INTERVAL = [option for option in LONG if "interval_steps" not in option]


def is_training(folder: Path) -> bool:
    return (folder / "metrics.jsonl").exists() and bool(metrics(folder))


@needs_proc
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow), "SIGUSR1"])
def test_a_signal_to_the_launcher_saves_before_exiting(identified, tmp_path, name):
    handled = ("--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGUSR1",) if name == "SIGUSR1" else ()
    launcher = torchrun(tmp_path, *TINY, f"data_paths=[{identified}]", *WITHOUT_INTERVAL, options=handled)
    try:
        wait_for(lambda: is_training(tmp_path / "run"), launcher)
        launcher.send_signal(getattr(signal, name))
        out, _ = launcher.communicate(timeout=60)
    finally:
        launcher.kill()
    assert launcher.returncode == 1
    assert out.count(f"stopped by {name} after step") == 1
    (state,) = tmp_path.glob("run/state_step_*")
    assert len(list(state.glob("*.json"))) == 2


@needs_proc
@pytest.mark.parametrize("name", [pytest.param("SIGKILL", marks=pytest.mark.slow), "SIGUSR1"])
def test_workers_whose_launcher_has_been_killed_save_and_stop(identified, tmp_path, name):
    launcher = torchrun(tmp_path, *TINY, f"data_paths=[{identified}]", *WITHOUT_INTERVAL)
    workers = []
    try:
        wait_for(lambda: is_training(tmp_path / "run"), launcher)
        workers = workers_of(launcher)
        launcher.send_signal(getattr(signal, name))  # torchrun does not handle it
        out, _ = launcher.communicate(timeout=60)  # until the workers close their output
        deadline = time.monotonic() + 10
        while any(map(is_running, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        launcher.kill()
        leftover = [pid for pid in workers if is_running(pid)]
        for pid in leftover:
            os.kill(pid, signal.SIGKILL)
    assert launcher.returncode == -getattr(signal, name)
    assert len(workers) == 2
    assert leftover == []
    assert out.count("stopped by the end of torchrun after step") == 1
    (state,) = tmp_path.glob("run/state_step_*")
    assert len(list(state.glob("*.json"))) == 2
    codes, results = train_on(
        2, tmp_path, identified, "run", resume="auto", epochs=24, eval_interval=12, log_interval=20
    )
    assert codes == [0, 0], results[0].stderr
