"""Checkpoints, by breaking them: kills, flipped bits, cut files, full and read-only disks, missing ranks."""

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from ranks import outputs_of, run_ranks

from utils import checkpoint as checkpoint_module
from utils import files, state_files
from utils.checkpoint import Best, Checkpointer
from utils.distributed import World
from utils.errors import UserError
from utils.weights import read_state_dict

ALONE = World()


def state_of(step: int, size: int = 64) -> dict:
    """What `save` is given at a step: every value tells the step it belongs to."""
    generator = torch.Generator().manual_seed(step)
    shared = {
        "step": step,
        "model": {
            "weight": torch.rand(size, generator=generator),
            "half": torch.full((3,), step, dtype=torch.bfloat16),
        },
        "optimizer": {
            0: {"moment": torch.rand(size, generator=generator)},
            "names": ["a", ("b", 2.5, None, True)],
        },
        "config": {"lr": 1e-4, "run": "größer"},
    }
    return {"shared": shared, "per_rank": {"carry": torch.full((2, 2), float(step)), "steps": [step]}}


def weights_of(step: int) -> dict:
    return {
        "model.inner.lm_head.weight": torch.full((4, 3), float(step)),
        "model.inner.H_init": torch.ones(3),
    }


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def save_steps(directory: Path, *steps: int, keep_last: int | None = None) -> None:
    with Checkpointer(directory, ALONE, keep_last=keep_last) as checkpointer:
        for step in steps:
            checkpointer.save(step, weights=weights_of(step), **state_of(step))


def loads(directory: Path, step: int) -> bool:
    """Whether the newest whole state is the one of that step, to the last bit."""
    checkpointer = Checkpointer(directory, ALONE)
    found = checkpointer.latest()
    shared, per_rank = checkpointer.load(found)
    return found.step == step and equal({"shared": shared, "per_rank": per_rank}, state_of(step))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_state_comes_back_to_the_last_bit_and_weights_are_a_plain_state_dict(tmp_path):
    save_steps(tmp_path, 10)
    assert loads(tmp_path, 10)
    assert names(tmp_path) == {"step_10", "state_step_10"}
    assert equal(torch.load(tmp_path / "step_10", weights_only=True), weights_of(10))
    assert equal(read_state_dict(tmp_path / "step_10"), weights_of(10))


def test_what_changes_after_save_returns_is_not_in_the_file(tmp_path, monkeypatch):
    go, write = threading.Event(), files.write_atomically

    def slow_write(path, data):
        assert go.wait(10)
        write(path, data)

    monkeypatch.setattr(state_files, "write_atomically", slow_write)
    state = state_of(10)
    with Checkpointer(tmp_path, ALONE) as checkpointer:
        checkpointer.save(10, **state)  # returns while the file is not written
        assert names(tmp_path / "state_step_10") == set() if (tmp_path / "state_step_10").exists() else True
        state["shared"]["model"]["weight"].zero_()
        state["shared"]["config"]["lr"] = 0.0
        go.set()
    assert loads(tmp_path, 10)


def test_each_save_has_its_own_values_although_buffers_are_used_again(tmp_path):
    save_steps(tmp_path, 10, 20)
    checkpointer = Checkpointer(tmp_path, ALONE)
    for step in (10, 20):
        shared, _ = checkpointer.load(checkpointer.find(tmp_path / f"state_step_{step}"))
        assert equal(shared, state_of(step)["shared"])


def test_tensors_that_share_a_start_but_not_a_shape_are_kept_apart(tmp_path):
    base = torch.arange(6.0)
    shared = {
        "all": base,
        "head": base[:2],
        "table": base.view(2, 3),
        "columns": base.view(2, 3).T,
        "again": base,
    }
    with Checkpointer(tmp_path, ALONE) as checkpointer:
        checkpointer.save(1, shared=shared, per_rank={})
    loaded, _ = checkpointer.load(checkpointer.latest())
    assert equal(loaded, shared)


def test_a_value_that_could_not_be_loaded_safely_is_refused_when_saving(tmp_path):
    with (
        Checkpointer(tmp_path, ALONE) as checkpointer,
        pytest.raises(TypeError, match=r"shared\.data\.path: PosixPath"),
    ):
        checkpointer.save(1, shared={"data": {"path": Path("x")}}, per_rank={})


class Malicious:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_loading_never_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_steps(tmp_path, 10)
    state = Checkpointer(tmp_path, ALONE).latest()
    state_files.write_parts(state, 0, {"shared": {"a": Malicious()}, "rank_0": {}})
    with pytest.raises(UserError, match=r"shared\.pt: cannot be read as tensors"):
        Checkpointer(tmp_path, ALONE).load(state)
    assert not Path("executed").exists()


# Which checkpoint is the newest


def test_keep_last_prunes_states_and_never_weights(tmp_path):
    save_steps(tmp_path, 10, 20, 30, 40, keep_last=2)
    assert names(tmp_path) == {"step_10", "step_20", "step_30", "step_40", "state_step_30", "state_step_40"}


def test_a_second_save_of_a_step_replaces_the_first_only_when_it_is_whole(tmp_path, monkeypatch):
    with Checkpointer(tmp_path, ALONE) as checkpointer:
        checkpointer.save(10, shared={"evaluated": False}, per_rank={})
        checkpointer.join()
        monkeypatch.setattr(
            checkpointer, "_prune", lambda: pytest.fail("pruned before the new state was whole")
        )
        monkeypatch.setattr(os, "replace", _failing(errno.ENOSPC))
        with pytest.raises(UserError):
            checkpointer.save(10, shared={"evaluated": True}, per_rank={}, wait=True)
        monkeypatch.undo()
        assert checkpointer.load(checkpointer.latest())[0] == {"evaluated": False}
        checkpointer.save(10, shared={"evaluated": True}, per_rank={}, wait=True)
        assert checkpointer.load(checkpointer.latest())[0] == {"evaluated": True}
    assert len(list((tmp_path / "state_step_10").glob("*-shared.pt"))) == 1


def test_a_run_resumed_from_an_older_state_goes_on_from_what_it_saved_last(tmp_path):
    save_steps(tmp_path, 10, 20, 30)
    save_steps(tmp_path, 15)  # another start, resumed from step 10
    assert loads(tmp_path, 15)
    save_steps(tmp_path, 20, keep_last=2)
    assert loads(tmp_path, 20)
    assert {name for name in names(tmp_path) if name.startswith("state")} == {
        "state_step_15",
        "state_step_20",
    }


def test_a_named_checkpoint_is_found_by_its_state_its_weights_or_its_folder(tmp_path):
    save_steps(tmp_path / "step_run", 10, 20)
    checkpointer = Checkpointer(tmp_path / "other", ALONE)
    assert checkpointer.find(tmp_path / "step_run" / "state_step_10").step == 10
    assert checkpointer.find(tmp_path / "step_run" / "step_10").step == 10
    assert checkpointer.find(tmp_path / "step_run").step == 20


@pytest.mark.parametrize("name", ["", "step_10", "state_step_10", "missing"])
def test_naming_what_is_no_state_is_an_error(tmp_path, name):
    torch.save(weights_of(10), tmp_path / "step_10")
    with pytest.raises(UserError, match="no full training state"):
        Checkpointer(tmp_path / "other", ALONE).find(tmp_path / name)


def test_a_folder_without_states_has_no_latest(tmp_path):
    assert Checkpointer(tmp_path, ALONE).latest() is None


@pytest.mark.parametrize("keep_last", [0, -1])
def test_keeping_no_state_is_refused(tmp_path, keep_last):
    with pytest.raises(UserError, match=f"keep_last={keep_last}"):
        Checkpointer(tmp_path, ALONE, keep_last=keep_last)


def test_best_is_the_weights_of_the_best_evaluation_and_survives_later_saves(tmp_path):
    with Checkpointer(tmp_path, ALONE) as checkpointer:
        checkpointer.save(10, weights=weights_of(10), best=Best("test/exact_accuracy", 0.5))
        checkpointer.save(20, weights=weights_of(20), best=Best("test/exact_accuracy", 0.75))
        checkpointer.save(30, weights=weights_of(30))
        checkpointer.save(20, weights=weights_of(21))
    assert equal(read_state_dict(tmp_path / "best"), weights_of(20))
    facts = json.loads((tmp_path / "best.json").read_text())
    assert facts["sha256"] == state_files.sha256((tmp_path / "best").read_bytes())
    assert (facts["step"], facts["metric"], facts["value"]) == (20, "test/exact_accuracy", 0.75)


def test_best_is_a_copy_where_there_are_no_hard_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", _failing(errno.EPERM))
    with Checkpointer(tmp_path, ALONE) as checkpointer:
        checkpointer.save(10, weights=weights_of(10), best=Best("test/exact_accuracy", 0.5))
    assert equal(read_state_dict(tmp_path / "best"), weights_of(10))


# Damage

PARTS = ["2-shared.pt", "2-rank_0.pt", "2-rank_0.json"]


def flip_a_bit(path: Path, position: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("position", [0, 0.3, 0.5, 0.77, 1])
def test_a_flipped_bit_anywhere_falls_back_to_the_previous_state_with_a_warning(
    tmp_path, capsys, part, position
):
    save_steps(tmp_path, 10, 20)
    flip_a_bit(tmp_path / "state_step_20" / part, position)
    assert loads(tmp_path, 10)
    warning = capsys.readouterr().out
    assert warning.startswith("warning: ")
    assert f"state_step_20/{part}: damaged" in warning


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("length", [0, 40])
def test_a_cut_file_falls_back_to_the_previous_state(tmp_path, capsys, part, length):
    save_steps(tmp_path, 10, 20)
    os.truncate(tmp_path / "state_step_20" / part, length)
    assert loads(tmp_path, 10)
    assert f"state_step_20/{part}: damaged" in capsys.readouterr().out


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_file_falls_back_to_the_previous_state(tmp_path, capsys, part):
    save_steps(tmp_path, 10, 20)
    (tmp_path / "state_step_20" / part).unlink()
    assert loads(tmp_path, 10)
    assert "state_step_20" in capsys.readouterr().out


def test_if_every_state_is_damaged_nothing_is_started_over_silently(tmp_path):
    save_steps(tmp_path, 10)
    flip_a_bit(tmp_path / "state_step_10" / "1-shared.pt", 0.5)
    with pytest.raises(UserError, match=r"1-shared.pt: damaged.*no whole state to fall back to"):
        Checkpointer(tmp_path, ALONE).latest()


def test_a_first_save_that_was_interrupted_counts_as_no_state(tmp_path, capsys):
    save_steps(tmp_path, 10)
    (tmp_path / "state_step_10" / "1-rank_0.json").unlink()
    assert Checkpointer(tmp_path, ALONE).latest() is None
    assert "not completed" in capsys.readouterr().out


def test_left_overs_of_a_crash_are_cleared_away_by_the_next_save(tmp_path):
    save_steps(tmp_path, 10, 20)
    (tmp_path / "state_step_20" / "2-rank_0.json").unlink()
    (tmp_path / "state_step_20" / "2-shared.pt.tmp").touch()
    (tmp_path / "step_30.tmp").touch()
    save_steps(tmp_path, 40)
    assert names(tmp_path) == {"step_10", "step_20", "step_40", "state_step_10", "state_step_40"}


# Disks


def _failing(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("number", "cure"),
    [(errno.ENOSPC, "free space"), (errno.EROFS, "may write to"), (errno.EIO, "check the disk")],
)
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_refuses_gives_an_error_with_path_and_cure_and_harms_nothing(
    tmp_path, monkeypatch, number, cure, call
):
    save_steps(tmp_path, 10)
    checkpointer = Checkpointer(tmp_path, ALONE, keep_last=1)
    monkeypatch.setattr(os, call, _failing(number))
    checkpointer.save(20, weights=weights_of(20), **state_of(20))  # the thread's error is not lost ...
    with pytest.raises(UserError, match=cure) as error:
        checkpointer.save(30, weights=weights_of(30), **state_of(30))  # ... but raised by the next call
    assert str(tmp_path / "step_20") in str(error.value)
    monkeypatch.undo()
    checkpointer.close()
    assert loads(tmp_path, 10)
    assert not list(tmp_path.rglob("*.tmp"))


def fill_the_disk(directory: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with Checkpointer(directory, ALONE, keep_last=1) as checkpointer:
        checkpointer.save(20, **state_of(20, size=10_000), wait=True)


def test_a_file_that_the_system_does_not_let_grow_leaves_the_previous_state(tmp_path):
    save_steps(tmp_path, 10)
    (result,) = run_ranks(tmp_path, fill_the_disk, str(tmp_path), size=1)
    assert result.returncode == 1
    assert "2-shared.pt: cannot be written (File too large); free space" in result.stderr
    assert loads(tmp_path, 10)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_disk_that_is_really_full_leaves_the_previous_state(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=400k tmpfs {disk} 2>/dev/null"):
        pytest.skip("this system does not let a tmpfs be mounted")
    try:
        with Checkpointer(disk, ALONE) as checkpointer:
            checkpointer.save(10, **state_of(10))
            checkpointer.save(20, **state_of(20))
            with pytest.raises(UserError, match=r"No space left on device.*free space"):
                checkpointer.save(30, **state_of(30, size=100_000), wait=True)
        assert loads(disk, 20)
        if os.system(f"mount -o remount,ro {disk} 2>/dev/null") == 0:
            with pytest.raises(UserError, match=r"Read-only file system.*may write to"):
                Checkpointer(disk, ALONE)
    finally:
        os.system(f"umount {disk}")


def test_a_folder_that_cannot_be_written_is_an_error_before_training_starts(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="choose another checkpoint_path"):
        Checkpointer(tmp_path / "file" / "run", ALONE)


def test_an_error_that_ends_the_run_waits_for_the_save_under_way(tmp_path, monkeypatch):
    write = files.write_atomically

    def slow_write(path, data):
        time.sleep(0.1)
        write(path, data)

    monkeypatch.setattr(state_files, "write_atomically", slow_write)

    def train():
        with Checkpointer(tmp_path, ALONE) as checkpointer:
            checkpointer.save(10, **state_of(10))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        train()
    assert loads(tmp_path, 10)


# Kills


def save_forever(directory: str, report) -> None:
    """Resume, then save step after step; reports (step, seconds) of saves that are on disk for certain."""
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
    """Kill a process that saves all the time, at random moments; the last step that was on disk for certain."""
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
        assert resumed >= certain  # never fewer whole states than before
        time.sleep(moments.uniform(0, 3 * seconds_per_save))  # disks differ
        process.kill()
        process.join()
        while True:  # what it had reported before it died
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


def test_killed_at_any_moment_a_run_resumes_from_its_last_whole_state(tmp_path):
    assert survive_kills(tmp_path, kills=8, seed=0) > 0


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(tmp_path):
    assert survive_kills(tmp_path, kills=100, seed=1) > 30
    states = [path for path in tmp_path.glob("state_step_*") if any(path.glob("*.json"))]
    assert len(states) <= 4  # what kills leave behind does not pile up


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


def test_every_rank_gets_its_own_part_back_and_another_number_of_ranks_none(tmp_path):
    outputs_of(run_ranks(tmp_path, save_on_two_ranks, str(tmp_path / "run")))
    assert outputs_of(run_ranks(tmp_path, load_on_two_ranks, str(tmp_path / "run"))) == ["30 2\n", ""]
    assert {path.name for path in (tmp_path / "run").glob("state*")} == {"state_step_30"}
    assert equal(read_state_dict(tmp_path / "run" / "step_30"), weights_of(30))

    alone = Checkpointer(tmp_path / "run", ALONE)
    shared, per_rank = alone.load(alone.latest())
    assert (shared["step"], per_rank) == (30, None)


def test_a_state_without_the_part_of_one_rank_is_not_whole(tmp_path, capsys):
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


def test_a_bad_folder_that_rank_0_meets_ends_all_ranks_with_its_error(tmp_path):
    (tmp_path / "file").touch()
    results = run_ranks(tmp_path, save_on_two_ranks, str(tmp_path / "file" / "run"))
    assert results[0].returncode == 2
    assert results[0].stderr.startswith("error: ")
    assert "cannot be written" in results[0].stderr
    assert results[1].returncode == 1
    assert "Traceback" not in results[1].stderr


def test_saving_takes_the_training_loop_the_time_of_a_copy_not_of_a_disk(tmp_path, monkeypatch):
    write = files.write_atomically

    def slow_write(path, data):
        time.sleep(0.2)
        write(path, data)

    monkeypatch.setattr(state_files, "write_atomically", slow_write)
    monkeypatch.setattr(checkpoint_module, "write_atomically", slow_write)
    with Checkpointer(tmp_path, ALONE) as checkpointer:
        checkpointer.save(10, weights=weights_of(10), **state_of(10))
        assert checkpointer.blocked_seconds < 0.15
        checkpointer.join()
