"""World: collectives on two Gloo processes compared with one, and how a run ends if a rank fails."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import outputs_of, run_ranks

from utils import distributed
from utils.distributed import World
from utils.errors import UserError


@pytest.fixture
def _alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.mark.usefixtures("_alone")
def test_in_a_single_process_every_collective_is_the_identity():
    with World.start("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        tensor = torch.arange(3.0)
        assert world.sum_(tensor) is tensor
        assert world.gather_tensor(tensor) is tensor
        assert world.gather_object({"a": 1}) == [{"a": 1}]
        assert world.broadcast_object("x") == "x"
        world.broadcast_([tensor])
        world.barrier()
        assert world.any_flags(True, False) == (True, False)
        parameter = torch.nn.Parameter(torch.ones(2))
        parameter.grad = torch.ones(2)
        world.sum_gradients([parameter])
        assert parameter.grad.tolist() == [1, 1]
        assert tensor.tolist() == [0, 1, 2]


def use_every_collective():
    with World.start("cpu") as world:
        rank = world.rank
        counts = torch.tensor([1 + rank, 10], dtype=torch.int64)
        assert world.sum_(counts) is counts
        assert counts.tolist() == [3, 20]
        not_contiguous = torch.full((3, 2), float(rank)).T
        assert world.gather_tensor(not_contiguous).tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
        assert world.gather_tensor(torch.tensor([rank == 0])).tolist() == [True, False]
        assert world.gather_object({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
        assert world.broadcast_object(f"from {rank}") == "from 0"
        weights = [torch.full((4,), float(rank)), torch.full((2, 2), rank), torch.tensor(float(rank))]
        world.broadcast_(weights)
        assert all(weight.eq(0).all() for weight in weights)
        # A flag of one rank reaches both in the next call, and only in that one.
        votes = [world.any_flags(rank == 1 and step == 2, False) for step in range(5)]
        assert votes == [(False, False)] * 3 + [(True, False), (False, False)]
        world.print("hello from", rank)
        world.barrier()


def test_two_ranks_sum_gather_broadcast_and_combine_flags(tmp_path):
    assert outputs_of(run_ranks(tmp_path, use_every_collective)) == ["hello from 0\n", ""]


def sum_gradients_in_small_buckets():
    distributed.BUCKET_BYTES = 4 * 250
    calls, all_reduce = [], dist.all_reduce

    def counted(tensor, *args, **kwargs):
        calls.append(tensor.numel())
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    with World.start("cpu") as world:
        calls.clear()  # from the start
        shapes = [(10, 10), (), (99,), (3,), (600,), (7, 7)]
        parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
        half = torch.nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))
        frozen = torch.nn.Parameter(torch.zeros(5))
        generator = torch.Generator().manual_seed(0)
        gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(world.size)]
        for parameter, gradient in zip(parameters, gradients[world.rank], strict=True):
            parameter.grad = gradient.clone()
        parameters[0].grad = parameters[0].grad.T.contiguous().T  # like the gradient of a transposed weight
        half.grad = torch.full((5,), 1.0 + world.rank, dtype=torch.bfloat16)
        before = [parameter.grad for parameter in parameters]
        world.sum_gradients([*parameters, half, frozen])
        for parameter, grad, a, b in zip(parameters, before, *gradients, strict=True):
            assert parameter.grad is grad
            assert torch.equal(grad, a + b)
        assert half.grad.tolist() == [3.0] * 5
        assert frozen.grad is None
        assert sorted(calls) == [5, 49, 203, 600]


def test_gradients_are_summed_in_place_with_few_collectives_skipping_missing_ones(tmp_path):
    outputs_of(run_ranks(tmp_path, sum_gradients_in_small_buckets))


def fail_on_rank_1():
    with World.start("cpu") as world:
        if world.rank == 1:
            raise ArithmeticError("the loss is not finite")
        world.sum_(torch.ones(1))


def test_a_rank_that_fails_ends_all_with_its_own_error_shown_once(tmp_path):
    results = run_ranks(tmp_path, fail_on_rank_1)
    assert [result.returncode for result in results] == [1, 1]
    assert abs(results[0].ended - results[1].ended) < distributed.SHOW_SECONDS
    assert results[0].stderr == ""
    assert results[1].stderr.count("Traceback") == 1
    assert results[1].stderr.startswith("rank 1 failed:")
    assert results[1].stderr.endswith("ArithmeticError: the loss is not finite\n")


def meet_a_user_error():
    with World.start("cpu"):
        raise UserError("data_paths: no such folder")


def test_a_user_error_on_every_rank_is_shown_once_without_a_traceback(tmp_path):
    results = run_ranks(tmp_path, meet_a_user_error)
    assert [result.returncode for result in results] == [2, 2]
    assert "".join(result.stderr for result in results) == "error: data_paths: no such folder\n"


def meet_it_late(late_rank: int):
    with World.start("cpu") as world:
        world.barrier()
        if world.rank == late_rank:
            time.sleep(1)
        raise UserError("data_paths: no such folder")


@pytest.mark.parametrize("late_rank", [0, 1])
def test_a_rank_that_raises_the_same_error_later_stays_silent(tmp_path, late_rank):
    results = run_ranks(tmp_path, meet_it_late, late_rank)
    assert [result.returncode for result in results] == [2, 2]
    assert "".join(result.stderr for result in results) == "error: data_paths: no such folder\n"


def kill_a_rank(victim: int):
    with World.start("cpu") as world:
        world.barrier()
        if world.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        world.sum_(torch.ones(1))


@pytest.mark.parametrize("victim", [0, 1])  # rank 0 holds the store through which ranks agree on who reports
def test_other_ranks_exit_promptly_with_one_line_if_one_is_killed(tmp_path, victim):
    results = run_ranks(tmp_path, kill_a_rank, victim)
    survivor = results[1 - victim]
    assert results[victim].returncode == -signal.SIGKILL
    assert survivor.returncode == 1
    assert survivor.ended - results[victim].ended < 2 * distributed.SHOW_SECONDS
    # After warnings from torch.
    assert f"error: rank {1 - victim} lost contact with another rank" in survivor.stderr
    assert "Traceback" not in survivor.stderr


def hang_on_rank_1():
    with World.start("cpu") as world:
        if world.rank == 1:
            time.sleep(4)
            os._exit(3)
        world.sum_(torch.ones(1))


def test_a_hanging_rank_ends_the_run_after_the_timeout(tmp_path):
    results = run_ranks(tmp_path, hang_on_rank_1, DIST_TIMEOUT_SECONDS="1")
    assert [result.returncode for result in results] == [1, 3]
    assert results[0].ended < results[1].ended
    assert "lost contact" in results[0].stderr


def start_twice():
    for run in range(2):
        if os.environ["RANK"] == "1":
            time.sleep(0.5)  # rank 0 must not confuse the addresses of the two runs
        with World.start("cpu") as world:
            world.print("run", run, "sum", int(world.sum_(torch.ones(1))))
            assert world.gather_object(world.rank) == [0, 1]


@pytest.fixture
def launcher_store():
    """Set the environment of workers whose launcher serves the store, like `torchrun`; it outlives their groups."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield {"MASTER_PORT": str(server.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    del server  # kept alive until here


def test_processes_can_join_for_two_runs_in_a_row(tmp_path, launcher_store):
    for environment in ({}, launcher_store):
        results = run_ranks(tmp_path, start_twice, **environment)
        assert outputs_of(results) == ["run 0 sum 2\nrun 1 sum 2\n", ""]


def fail_in_the_second_run():
    with World.start("cpu"):
        pass
    with World.start("cpu") as world:
        if world.rank == 1:
            raise ArithmeticError("the loss is not finite")
        world.sum_(torch.ones(1))


def test_a_rank_that_fails_in_a_later_run_ends_all_with_its_own_error(tmp_path, launcher_store):
    results = run_ranks(tmp_path, fail_in_the_second_run, **launcher_store)
    assert [result.returncode for result in results] == [1, 1]
    assert results[0].stderr == ""
    assert results[1].stderr.count("ArithmeticError: the loss is not finite") == 1


def leave():
    with World.start("cpu"):
        sys.exit(0)


def test_exit_code_zero_is_not_a_failure(tmp_path):
    outputs_of(run_ranks(tmp_path, leave))


@pytest.mark.usefixtures("_alone")
def test_in_a_single_process_errors_are_unchanged():
    with pytest.raises(UserError, match="as it is"), World.start("cpu"):
        raise UserError("as it is")


def test_a_timeout_that_is_not_a_number_is_rejected(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "DIST_TIMEOUT_SECONDS": "ten"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="DIST_TIMEOUT_SECONDS='ten' must be a number"):
        World.start("cpu")


def start_without_the_others():
    World.start("cpu")


def test_a_rank_without_its_peers_reports_it_in_one_line(tmp_path, monkeypatch):
    (result,) = run_ranks(
        tmp_path, start_without_the_others, size=1, WORLD_SIZE="2", DIST_TIMEOUT_SECONDS="1"
    )
    assert "UserError: rank 0 of 2 cannot join the other processes" in result.stderr


def test_buckets_hold_one_dtype_keep_the_order_and_respect_the_limit():
    floats = [torch.zeros(n) for n in (10, 20, 100, 5, 1)]
    halves = [torch.zeros(n, dtype=torch.bfloat16) for n in (10, 10)]
    buckets = list(distributed._buckets([*floats[:2], halves[0], *floats[2:], halves[1]], limit_bytes=4 * 30))
    assert [[tensor.numel() for tensor in bucket] for bucket in buckets] == [
        [10, 20],
        [100],
        [5, 1],
        [10, 10],
    ]
    assert all(len({tensor.dtype for tensor in bucket}) == 1 for bucket in buckets)


def torchrun(tmp_path, body: str, *options: str) -> subprocess.CompletedProcess:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(body))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", "--nnodes=1", *options, str(script)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_under_torchrun_a_failing_rank_is_shown_once_and_the_launcher_fails(tmp_path):
    done = torchrun(
        tmp_path,
        """
        import torch
        from utils.distributed import World
        with World.start("cpu") as world:
            if world.rank == 1:
                raise ArithmeticError("the loss is not finite")
            world.sum_(torch.ones(1))
        """,
    )
    assert done.returncode == 1
    assert done.stderr.count("ArithmeticError: the loss is not finite") == 1
    assert "lost contact" not in done.stderr


@pytest.mark.slow
def test_restarted_workers_of_torchrun_join_each_other_and_not_killed_ones(tmp_path):
    done = torchrun(
        tmp_path,
        """
        import os, signal, torch
        from utils.distributed import World
        with World.start("cpu") as world:
            attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
            if world.rank == 1 and attempt == "0":
                os.kill(os.getpid(), signal.SIGKILL)
            world.print("sum", int(world.sum_(torch.ones(1))), "in attempt", attempt)
        """,
        "--max-restarts=1",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "sum 2 in attempt 1\n"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds threads in /proc")
def test_a_finished_rank_has_no_thread_that_could_abort_it(tmp_path):
    done = torchrun(
        tmp_path,
        """
        import torch
        from pathlib import Path
        from utils.distributed import World

        def threads():
            names = (Path(task, "comm").read_text() for task in Path("/proc/self/task").iterdir())
            return sum("gloo" in name for name in names)

        with World.start("cpu") as world:
            weight = torch.ones(1, requires_grad=True)
            weight.grad = world.sum_(torch.ones(1))
            torch.optim.SGD([weight], lr=0.1).step()  # imports a module that keeps a reference to the current group
            assert threads() > 0
        assert threads() == 0
        """,
    )
    assert done.returncode == 0, done.stderr


def test_output_is_written_to_a_log_file_immediately(tmp_path, monkeypatch):
    log = tmp_path / "log"
    with log.open("w") as file:  # buffered, like stdout under nohup and Slurm
        monkeypatch.setattr("sys.stdout", file)
        World().print("train: step 1")
        assert log.read_text() == "train: step 1\n"
