"""Checkpoints of runs that are killed at random moments, and of runs with several ranks."""

import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch
from ranks import outputs_of, run_ranks
from saved_steps import ALONE, equal, loads, names, state_of, weights_of

from utils import state_files
from utils.checkpoint import Best, Checkpointer
from utils.distributed import World
from utils.weights import read_state_dict

# Kills


def save_forever(directory: str, report) -> None:
    """Resume, then save step after step; report (step, seconds) of completed saves."""
    checkpointer = Checkpointer(directory, ALONE, keep_last=2)
    found = checkpointer.latest()
    step = found.step if found else 0
    if found:
        shared, per_rank = checkpointer.load(found)
        assert equal({"shared": shared, "per_rank": per_rank}, state_of(step))
    report.send((step, 0.0))
    started = time.monotonic()
    while True:
        step += 1
        checkpointer.save(
            step, weights=weights_of(step), **state_of(step), best=Best("test/exact_accuracy", step)
        )
        if random.random() < 0.5:
            checkpointer.join()
            report.send((step, time.monotonic() - started))
        started = time.monotonic()


def survive_kills(directory: Path, kills: int, seed: int) -> int:
    """Kill a process that saves continuously at random moments; return the last step that was certainly saved."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "utils.checkpoint", "pytest"])
    moments, certain, seconds_per_save = random.Random(seed), 0, 0.1
    for _ in range(kills):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=save_forever, args=(str(directory), sender))
        process.start()
        sender.close()
        assert receiver.poll(60)
        resumed, _ = receiver.recv()
        assert resumed >= certain  # never fewer complete states than before
        time.sleep(moments.uniform(0, 3 * seconds_per_save))  # disks differ
        process.kill()
        process.join()
        while True:  # reports from before it was killed
            try:
                certain, seconds_per_save = receiver.recv()
            except EOFError:
                break
        found = Checkpointer(directory, ALONE).latest()
        found_step = found.step if found else 0
        assert found_step >= certain
        certain = found_step
        for weights in directory.glob("step_*"):
            if not weights.name.endswith(".tmp"):
                assert equal(read_state_dict(weights), weights_of(int(weights.name[5:])))
                weights.unlink()
    return certain


def test_a_run_killed_at_any_moment_resumes_from_its_last_complete_state(tmp_path):
    assert survive_kills(tmp_path, kills=8, seed=0) > 0


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(tmp_path):
    assert survive_kills(tmp_path, kills=100, seed=1) > 30
    states = [path for path in tmp_path.glob("state_step_*") if any(path.glob("*.json"))]
    assert len(states) <= 4  # leftovers of kills do not accumulate


# Ranks


def save_on_two_ranks(directory: str) -> None:
    with World.start("cpu") as world, Checkpointer(directory, world, keep_last=1) as checkpointer:
        for step in (10, 20, 30):
            checkpointer.save(
                step,
                weights=weights_of(step) if world.is_main else {"wrong": torch.zeros(1)},
                shared={"step": step, "rank": world.rank},
                per_rank={"carry": torch.full((2,), world.rank + step)},
            )


def load_on_two_ranks(directory: str) -> None:
    with World.start("cpu") as world:
        checkpointer = Checkpointer(directory, world)
        found = checkpointer.latest()
        shared, per_rank = checkpointer.load(found)
        assert shared == {"step": found.step, "rank": 0}
        assert per_rank["carry"].tolist() == [world.rank + found.step] * 2
        world.print(found.step, found.world_size)


def test_every_rank_loads_its_own_part_and_a_different_number_of_ranks_none(tmp_path):
    outputs_of(run_ranks(tmp_path, save_on_two_ranks, str(tmp_path / "run")))
    assert outputs_of(run_ranks(tmp_path, load_on_two_ranks, str(tmp_path / "run"))) == ["30 2\n", ""]
    assert {path.name for path in (tmp_path / "run").glob("state*")} == {"state_step_30"}
    assert equal(read_state_dict(tmp_path / "run" / "step_30"), weights_of(30))

    alone = Checkpointer(tmp_path / "run", ALONE)
    shared, per_rank = alone.load(alone.latest())
    assert (shared["step"], per_rank) == (30, None)


def test_a_state_without_the_part_of_one_rank_is_incomplete(tmp_path, capsys):
    outputs_of(run_ranks(tmp_path, save_on_two_ranks, str(tmp_path / "run")))
    save_number = 4
    older = Checkpointer(tmp_path / "run", ALONE)
    folder = tmp_path / "run" / "state_step_40"
    folder.mkdir()
    state = state_files.Checkpoint(folder, 40, save_number, world_size=2)
    state_files.write_parts(state, 0, {"shared": {"step": 40}, "rank_0": {}})
    assert older.latest().step == 30
    assert "not completed (no 4-rank_1.json)" in capsys.readouterr().out


def test_while_another_rank_is_still_writing_the_previous_state_is_not_pruned(tmp_path):
    with Checkpointer(tmp_path, ALONE, keep_last=1) as checkpointer:
        checkpointer.save(10, **state_of(10), wait=True)
        checkpointer.world = World(rank=0, size=2)  # rank 1 is slow: its part of step 20 is not there yet
        checkpointer.save(20, **state_of(20), wait=True)
        assert {"state_step_10", "state_step_20"} <= names(tmp_path)
        checkpointer.world = ALONE
    assert loads(tmp_path, 10)


def test_an_error_of_rank_0_about_the_folder_ends_all_ranks(tmp_path):
    (tmp_path / "file").touch()
    results = run_ranks(tmp_path, save_on_two_ranks, str(tmp_path / "file" / "run"))
    assert results[0].returncode == 2
    assert results[0].stderr.startswith("error: ")
    assert "cannot be written" in results[0].stderr
    assert results[1].returncode == 1
    assert "Traceback" not in results[1].stderr
