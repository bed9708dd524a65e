"""Damaged checkpoints: flipped bits, truncated and missing files; full, slow and read-only disks."""

import errno
import json
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from saved_steps import ALONE, equal, loads, names, save_steps, state_of, weights_of

from utils import checkpoint as checkpoint_module
from utils import files, state_files
from utils.checkpoint import Best, Checkpointer
from utils.errors import UserError
from utils.weights import read_state_dict


def test_a_state_is_restored_exactly_and_weights_are_a_plain_state_dict(tmp_path):
    save_steps(tmp_path, 10)
    assert loads(tmp_path, 10)
    assert names(tmp_path) == {"step_10", "state_step_10"}
    assert equal(torch.load(tmp_path / "step_10", weights_only=True), weights_of(10))
    assert equal(read_state_dict(tmp_path / "step_10"), weights_of(10))


def test_changes_after_save_returns_are_not_in_the_file(tmp_path, monkeypatch):
    go, serialise = threading.Event(), state_files.serialise

    def delayed(tree):
        assert go.wait(10)
        return serialise(tree)

    monkeypatch.setattr(state_files, "serialise", delayed)
    state, weights = state_of(10), weights_of(10)
    with Checkpointer(tmp_path, ALONE) as checkpointer:
        checkpointer.save(10, weights=weights, **state)  # returns before anything is serialised
        assert names(tmp_path) == set()
        for live in (state["shared"]["model"]["weight"], state["per_rank"]["carry"], *weights.values()):
            live.zero_()
        state["shared"]["config"]["lr"] = 0.0
        go.set()
    assert loads(tmp_path, 10)
    assert equal(torch.load(tmp_path / "step_10", weights_only=True), weights_of(10))


def test_each_save_has_its_own_values_although_buffers_are_reused(tmp_path):
    save_steps(tmp_path, 10, 20)
    checkpointer = Checkpointer(tmp_path, ALONE)
    for step in (10, 20):
        shared, _ = checkpointer.load(checkpointer.find(tmp_path / f"state_step_{step}"))
        assert equal(shared, state_of(step)["shared"])


def test_tensors_with_the_same_start_but_different_shapes_are_kept_separate(tmp_path):
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


def test_a_value_that_could_not_be_loaded_safely_is_rejected_when_saving(tmp_path):
    with (
        Checkpointer(tmp_path, ALONE) as checkpointer,
        pytest.raises(TypeError, match=r"shared\.data\.path: loading a PosixPath"),
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
    with pytest.raises(UserError, match=r"shared\.pt: is a pickle that needs to run code"):
        Checkpointer(tmp_path, ALONE).load(state)
    assert not Path("executed").exists()


# Which checkpoint is the newest


def test_keep_last_prunes_states_and_never_weights(tmp_path):
    save_steps(tmp_path, 10, 20, 30, 40, keep_last=2)
    assert names(tmp_path) == {"step_10", "step_20", "step_30", "step_40", "state_step_30", "state_step_40"}


def test_a_second_save_of_a_step_replaces_the_first_only_when_complete(tmp_path, monkeypatch):
    with Checkpointer(tmp_path, ALONE) as checkpointer:
        checkpointer.save(10, shared={"evaluated": False}, per_rank={})
        checkpointer.join()
        monkeypatch.setattr(
            checkpointer, "_prune", lambda: pytest.fail("pruned before the new state was complete")
        )
        monkeypatch.setattr(os, "replace", _failing(errno.ENOSPC))
        with pytest.raises(UserError):
            checkpointer.save(10, shared={"evaluated": True}, per_rank={}, wait=True)
        monkeypatch.undo()
        assert checkpointer.load(checkpointer.latest())[0] == {"evaluated": False}
        checkpointer.save(10, shared={"evaluated": True}, per_rank={}, wait=True)
        assert checkpointer.load(checkpointer.latest())[0] == {"evaluated": True}
    assert len(list((tmp_path / "state_step_10").glob("*-shared.pt"))) == 1


def test_a_run_resumed_from_an_older_state_continues_from_its_last_save(tmp_path):
    save_steps(tmp_path, 10, 20, 30)
    save_steps(tmp_path, 15)  # another process, resumed from step 10
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
def test_a_name_that_is_not_a_state_is_an_error(tmp_path, name):
    torch.save(weights_of(10), tmp_path / "step_10")
    with pytest.raises(UserError, match="no full training state"):
        Checkpointer(tmp_path / "other", ALONE).find(tmp_path / name)


def test_a_folder_without_states_has_no_latest(tmp_path):
    assert Checkpointer(tmp_path, ALONE).latest() is None


@pytest.mark.parametrize("keep_last", [0, -1])
def test_keeping_no_states_is_rejected(tmp_path, keep_last):
    with pytest.raises(UserError, match=f"keep_last={keep_last}"):
        Checkpointer(tmp_path, ALONE, keep_last=keep_last)


def test_best_holds_the_weights_of_the_best_evaluation_and_survives_later_saves(tmp_path):
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


def test_if_every_state_is_damaged_the_run_does_not_silently_start_over(tmp_path):
    save_steps(tmp_path, 10)
    flip_a_bit(tmp_path / "state_step_10" / "1-shared.pt", 0.5)
    with pytest.raises(UserError, match=r"1-shared.pt: damaged.*no complete state to fall back to"):
        Checkpointer(tmp_path, ALONE).latest()


def test_an_interrupted_first_save_does_not_count_as_a_state(tmp_path, capsys):
    save_steps(tmp_path, 10)
    (tmp_path / "state_step_10" / "1-rank_0.json").unlink()
    assert Checkpointer(tmp_path, ALONE).latest() is None
    assert "not completed" in capsys.readouterr().out


def test_leftovers_of_a_crash_are_removed_by_the_next_save(tmp_path):
    save_steps(tmp_path, 10, 20)
    (tmp_path / "state_step_20" / "2-rank_0.json").unlink()
    (tmp_path / "state_step_20" / "2-shared.pt.17-0123abcd.tmp").touch()
    (tmp_path / "step_30.17-0123abcd.tmp").touch()
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
def test_a_disk_error_names_path_and_cure_and_keeps_existing_states(
    tmp_path, monkeypatch, number, cure, call
):
    save_steps(tmp_path, 10)
    checkpointer = Checkpointer(tmp_path, ALONE, keep_last=1)
    monkeypatch.setattr(os, call, _failing(number))
    checkpointer.save(20, weights=weights_of(20), **state_of(20))  # the error of the thread is not lost ...
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


def test_a_file_size_limit_keeps_the_previous_state(tmp_path):
    save_steps(tmp_path, 10)
    (result,) = run_ranks(tmp_path, fill_the_disk, str(tmp_path), size=1)
    assert result.returncode == 1
    assert "2-shared.pt: cannot be written (File too large); free space" in result.stderr
    assert loads(tmp_path, 10)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_keeps_the_previous_state(tmp_path):
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


def test_an_error_that_ends_the_run_waits_for_the_save_in_progress(tmp_path, monkeypatch):
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


def test_saving_costs_the_training_loop_a_copy_but_no_disk_time(tmp_path, monkeypatch):
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
