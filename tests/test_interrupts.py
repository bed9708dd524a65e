"""Ctrl-C, SIGTERM and kill -9: one line, the exit code of the signal, no partial files, no remaining process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import ROOT, TINY, newest_state, run_python, train

from utils.errors import report_user_errors
from utils.interrupts import Interrupted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")

COMMANDS = [
    *("pretrain.py", "evaluate.py", "solve.py", "export.py", "app.py"),
    *(f"dataset/build_{name}_dataset.py" for name in ("sudoku", "maze", "arc", "nqueens")),
    *("dataset/report.py", "evaluators/memorisation.py", "evaluators/plots.py"),
]
# Runs a script and sends it a signal at its first import of one of some modules, or at its very first import except for
# `utils.interrupts`.
AT_IMPORT = """
import os, sys
script, number, *names = sys.argv[1:]
class Sender:
    def find_spec(self, name, *_):
        if name in names if names else name not in ("__future__", "utils", "utils.interrupts"):
            os.kill(os.getpid(), int(number))
sys.meta_path.insert(0, Sender())
sys.argv, __file__ = [script, *os.environ.get("ARGUMENTS", "").split()], script
sys.path[0] = os.path.dirname(script)
exec(compile(open(script).read(), script, "exec"))
"""
LARGE = ("hydra", "numpy", "omegaconf", "torch")


@pytest.fixture(autouse=True, scope="module")
def _not_in_the_background():
    """Restore the handler of Ctrl-C, which background jobs of a shell ignore."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_at_import(
    command: str, number: signal.Signals, cwd: Path, *names: str, arguments: str = ""
) -> subprocess.CompletedProcess:
    script = ["-c", AT_IMPORT, str(ROOT / command), str(int(number)), *names]
    # For commands that are started as modules.
    return run_python(*script, cwd=cwd, PYTHONPATH=str(ROOT), ARGUMENTS=arguments)


@pytest.mark.parametrize("names", [(), LARGE], ids=["first", "large"])
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_during_imports_gives_one_line(command, names, tmp_path):
    # Without a checkpoint these commands exit before importing any large package.
    about_weights = command in ("solve.py", "app.py", "export.py") or command.startswith("evaluators/")
    required = "checkpoint=x out=y" if command == "export.py" else "checkpoint=x"
    arguments = required if about_weights and names else ""
    done = interrupted_at_import(command, signal.SIGINT, tmp_path, *names, arguments=arguments)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "arguments"), [("pretrain.py", "data_paths=[x]"), ("solve.py", "checkpoint=x")]
)
def test_ctrl_c_after_the_arguments_are_checked_gives_one_line(command, arguments, tmp_path):
    done = interrupted_at_import(command, signal.SIGINT, tmp_path, "torch", arguments=arguments)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_sigterm_has_its_own_message_and_code(tmp_path):
    done = interrupted_at_import("evaluate.py", signal.SIGTERM, tmp_path, *LARGE)
    assert (done.returncode, done.stderr) == (143, "terminated\n")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (KeyboardInterrupt(), "interrupted\n", 130),
        (Interrupted(signal.SIGTERM), "terminated\n", 143),
    ],
)
def test_an_interrupted_command_exits_with_one_line_and_the_code_of_the_signal(capsys, error, line, code):
    @report_user_errors
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    assert capsys.readouterr().err == line


def running_builder(folder: Path) -> tuple[subprocess.Popen, list[int]]:
    """Start a long-running builder; return the process and the ids of its two workers."""
    options = ["--generate", "500000", "--workers", "2", "--output-dir", str(folder)]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "dataset" / "build_sudoku_dataset.py"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = []
    while process.poll() is None and len(workers) < 2:
        time.sleep(0.05)
        workers = [int(pid) for pid in children.read_text().split()]
    return process, workers


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_all_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 30  # a worker may be busy
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_two_ctrl_c_end_a_builder_and_its_workers_and_leave_nothing(tmp_path):
    process, workers = running_builder(tmp_path / "new" / "data")
    os.killpg(process.pid, signal.SIGINT)  # to all processes, like a terminal
    time.sleep(0.3)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert len(workers) == 2
    assert (process.returncode, out) == (130, "interrupted\n")
    assert_all_end(workers)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_workers_of_a_killed_builder_exit_and_its_folder_is_unlocked(tmp_path):
    process, workers = running_builder(tmp_path)
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(workers) == 2
    assert_all_end(workers)
    options = ["--generate", "4", "--size", "4", "--workers", "1", "--output-dir", str(tmp_path)]
    done = run_python(str(ROOT / "dataset" / "build_sudoku_dataset.py"), *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".lock"))]


PRINTING = """
import os
from utils.errors import report_user_errors

@report_user_errors
def main():
    {body}

main()
"""


def run_unread(body: str) -> subprocess.CompletedProcess:
    """Run the body of a command whose output is a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", PRINTING.format(body=body)]
    with open(writing, "w") as output:
        return subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("flush", [True, False])
def test_a_command_whose_output_nobody_reads_ends_with_one_line(flush):
    done = run_unread(f"print('a line', flush={flush})")
    assert (done.returncode, done.stderr) == (141, "ended, because nothing reads the output any more\n")


def test_another_broken_pipe_is_not_taken_for_the_output():
    body = "ends = os.pipe(); os.close(ends[0]); os.write(ends[1], b'x')"
    done = run_python("-c", PRINTING.format(body=body), cwd=ROOT)
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr.splitlines()[-1]


def test_a_training_run_whose_output_nobody_reads_any_more_saves_and_stops(sudoku4x4, tmp_path):
    folder = tmp_path / "run"
    options = [
        *TINY,
        f"data_paths=[{sudoku4x4}]",
        f"checkpoint_path={folder}",
        "eval_interval=2",
        "logger=[]",
    ]
    command = [sys.executable, str(ROOT / "pretrain.py"), *options, "checkpoint_every_eval=False"]
    with subprocess.Popen(
        [*command, "epochs=1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        while not process.stdout.readline().startswith("TRM"):
            assert process.poll() is None
        process.stdout.close()
        told = process.stderr.read().splitlines()
    assert process.returncode == 141
    step = newest_state(folder)["shared"]["step"]
    stopped = f"stopped by the end of the program that read the output after step {step} and saved"
    assert f"{stopped}: continue with resume=auto" in told
    resumed = train(sudoku4x4, folder, resume="auto", epochs=1000000, max_minutes=1e-9)
    assert resumed == 0
    assert newest_state(folder)["shared"]["step"] == step + 1
