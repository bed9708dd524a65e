"""A folder is locked by one process at a time, until that process exits in any way."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import ROOT, assert_same_run, train

import evaluate
from config.evaluate_schema import EvaluateConfig
from utils import lock as lock_module
from utils.distributed import World
from utils.errors import UserError
from utils.lock import LOCK_FILE, locked_folder
from utils.strict_model import parse

HOLDER = """
import sys, time
from pathlib import Path
from utils.lock import locked_folder
with locked_folder(Path(sys.argv[1]), "another training", "checkpoint_path"):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start another process that holds the lock of `tmp_path/run`, where a save is in progress."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "step_5.17-0123abcd.tmp").write_text("half")
    arguments = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_second_training_is_rejected_until_the_first_is_killed(identified, tmp_path, holder):
    folder = tmp_path / "run"
    before = files(folder)
    for resume in (None, "auto"):
        with pytest.raises(UserError) as raised:
            train(identified, folder, resume=resume)
        assert str(raised.value).startswith(f"checkpoint_path={folder}: another training is under way there")
        assert f"process {holder.pid} on {socket.gethostname()}, since 2" in str(raised.value)
        assert "\n" not in str(raised.value)
        assert files(folder) == before  # even the temporary file of the save remains

    holder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    holder.wait()
    assert train(identified, folder, resume="auto") == 0
    assert not {name for name in files(folder) if name.endswith(".tmp")} | ({LOCK_FILE} & files(folder))


def test_a_run_can_be_evaluated_while_it_is_training(identified, tmp_path):
    folder = tmp_path / "run"
    train(identified, folder)
    with locked_folder(folder, "another training", "checkpoint_path"):
        config = parse(EvaluateConfig, {"checkpoint": str(folder), "device": "cpu"})
        assert evaluate.run_evaluation(config, World())["rows"] == 7
        assert (folder / LOCK_FILE).exists()


def test_a_run_locks_its_folder_only_while_it_trains(identified, tmp_path, monkeypatch):
    folder, errors = tmp_path / "run", []

    def another(*_, **__):
        with pytest.raises(UserError, match=f"process {os.getpid()} on ") as raised:
            train(identified, folder, resume="auto")
        errors.append(raised.value)
        return original(*_, **__)

    import pretrain

    original = pretrain.evaluate
    monkeypatch.setattr(pretrain, "evaluate", another)
    train(identified, folder)
    assert len(errors) == 2  # one per evaluation
    monkeypatch.undo()
    train(identified, tmp_path / "alone")
    assert_same_run(folder, tmp_path / "alone")


def test_a_rejected_start_of_several_ranks_is_rejected_on_all_of_them(tmp_path):
    from utils.run_folder import locked_run_folder

    class Silent(World):  # rank 1, which receives the result of rank 0
        def broadcast_object(self, value):
            assert value is None
            return UserError("taken")

    with pytest.raises(UserError, match="taken"), locked_run_folder(tmp_path / "x", Silent(rank=1, size=2)):
        pytest.fail("no error was raised")
    assert not (tmp_path / "x").exists()  # only rank 0 accesses the disk


def test_without_file_locks_the_run_continues_with_a_warning(identified, tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_module, "_try_lock", unsupported)
    (tmp_path / "step_5.17-0123abcd.tmp").touch()  # may belong to a running run
    assert train(identified, tmp_path) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "no file locks" in line]
    assert line.startswith(f"warning: {tmp_path}: no file locks here (No locks available)")
    assert "step_5.17-0123abcd.tmp" in files(tmp_path)
    assert LOCK_FILE not in files(tmp_path)


def test_a_read_only_folder_that_cannot_be_locked_is_reported(tmp_path):
    with (
        pytest.raises(UserError, match="--output-dir"),
        locked_folder(tmp_path / "missing", "another build", "--output-dir"),
    ):
        pytest.fail("locked")


def test_an_unlocked_lock_file_does_not_block(tmp_path):
    (tmp_path / LOCK_FILE).write_text(json.dumps({"pid": 1, "host": "x", "since": "y"}))
    with locked_folder(tmp_path, "another training", "checkpoint_path") as exclusive:
        assert exclusive
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert files(tmp_path) == set()


def test_locking_is_retried_if_the_last_holder_removed_the_file(tmp_path, monkeypatch):
    try_lock, calls = lock_module._try_lock, []

    def last_holder_leaves(descriptor):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(descriptor)
        return try_lock(descriptor)

    monkeypatch.setattr(lock_module, "_try_lock", last_holder_leaves)
    with locked_folder(tmp_path, "a build", "--output-dir") as locked:
        assert locked
        assert len(calls) == 2
        with pytest.raises(UserError, match="a build is under way"), locked_folder(tmp_path, "a build", "o"):
            pytest.fail("two holders")


def test_a_failed_start_does_not_block_the_next(identified, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise UserError("no")

    with monkeypatch.context() as patch:
        patch.setattr("pretrain.make_loggers", fail)
        with pytest.raises(UserError, match="no"):
            train(identified, tmp_path / "run", epochs=2)
    assert (tmp_path / "run" / "all_config.yaml").exists()
    assert train(identified, tmp_path / "run", epochs=2) == 0
