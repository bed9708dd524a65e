"""Startup costs of commands: checked splits and imported modules."""

from __future__ import annotations

from collections import Counter

import pytest
from fused_networks import needs_avx2
from training_runs import ROOT, TINY, run_python, train

from benchmarks.start import write_dataset
from dataset.example_set import ExampleSet
from evaluators.base import build_evaluators
from evaluators.reports.difficulty import ByDifficulty
from evaluators.sudoku import Sudoku
from models.arch_configs import CONFIGS, LOSS_TYPES
from models.architectures import ARCHITECTURES
from models.losses import TOKEN_LOSSES, ACTLossHead
from models.registry import DEFAULT_LOSS, loss_config
from puzzle_dataset import PuzzleDataset


@pytest.fixture
def sudoku(tmp_path):
    write_dataset(tmp_path / "sudoku", num_test=20, num_train=16)
    return tmp_path / "sudoku"


@pytest.fixture
def checked(monkeypatch):
    """Count how often the content of each split is checked."""
    counts: Counter[str] = Counter()
    problems = ExampleSet.problems

    def counting(example_set):
        counts[example_set.split_dir.name] += 1
        return problems(example_set)

    monkeypatch.setattr(ExampleSet, "problems", counting)
    return counts


@pytest.mark.parametrize("evaluators", [None, [{"name": "sudoku@Sudoku"}]])
def test_training_checks_each_split_once(sudoku, tmp_path, checked, evaluators):
    assert train(sudoku, tmp_path / "run", epochs=2, evaluators=evaluators) == 0
    assert checked == {"train": 1, "test": 1}
    assert '"sudoku/valid"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_an_evaluator_opens_the_test_data_if_it_is_not_open(sudoku, checked):
    data = PuzzleDataset([str(sudoku)], "test", global_batch_size=4)
    shared = build_evaluators(None, [str(sudoku)], data.metadata, data.splits)["Sudoku"]
    assert shared.sets["all"] is data.splits[0][1].sets["all"]
    assert checked == {"test": 1}
    assert Sudoku([str(sudoku)], data.metadata).sets.keys() == shared.sets.keys()
    assert checked == {"test": 2}


def test_plots_use_difficulties_of_the_open_data(sudoku, checked):
    data = PuzzleDataset([str(sudoku)], "test", global_batch_size=4)
    assert ByDifficulty(data).unit == "rating"
    assert checked == {"test": 1}


# Before torch is imported

HYDRA = ("pretrain.py", "evaluate.py")
ABOUT_WEIGHTS = ("solve.py", "export.py", "app.py", "-m evaluators.plots", "-m evaluators.memorisation")
ABOUT_DATA = (
    *(f"dataset/build_{family}_dataset.py" for family in ("sudoku", "maze", "arc")),
    *(f"-m dataset.build_{family}_dataset" for family in ("sudoku", "maze", "arc")),
    *("dataset/report.py", "-m dataset.report"),
)
# Libraries that are slow to import and not needed for --help.
SLOW = {"torch", "numpy", "sympy", "matplotlib", "wandb", "safetensors", "huggingface_hub", "PIL", "gradio"}


def run_listing_imports(command: str, *arguments: str, **environment: str) -> tuple[int, str, set[str]]:
    """Run a command; return its exit code, output, and the libraries of `SLOW` that it imported."""
    done = run_python("-X", "importtime", *command.split(), *arguments, cwd=ROOT, **environment)
    said, imported = [done.stdout], set()
    for line in done.stderr.splitlines():
        if line.startswith("import time:"):
            imported.add(line.rpartition("|")[2].strip().partition(".")[0])
        else:
            said.append(line)
    assert "pydantic" in imported or "argparse" in imported  # check that imports are recorded
    return done.returncode, "\n".join(said), imported & (SLOW - {"numpy"} if command in ABOUT_DATA else SLOW)


@pytest.mark.parametrize("command", [*HYDRA, *ABOUT_WEIGHTS, *ABOUT_DATA])
def test_help_imports_no_slow_library(command):
    code, said, slow = run_listing_imports(command, "--help")
    assert (code, slow) == (0, set())
    assert "usage" in said


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        *(
            (command, arguments)
            for command in (*HYDRA, *ABOUT_WEIGHTS)
            for arguments in ("", "checkpoint=x wrong=1")
        ),
        *((command, "--wrong") for command in (*HYDRA[:1], *ABOUT_WEIGHTS[:1], *ABOUT_DATA)),
    ],
)
def test_wrong_arguments_are_rejected_before_slow_imports(command, arguments):
    code, said, slow = run_listing_imports(command, *arguments.split())
    assert (code, slow) == (2, set())
    assert "wrong" in said or "usage" in said or "required" in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["arch=hrm", "arch.hiden_size=64"],
            "arch.hiden_size: unknown key; nearest valid keys: arch.hidden_size",
        ),
        (["arch=trm_equivariant", "arch.pooling=max"], "arch.pooling: 'max' is not valid"),
        (["arch.name=tmr"], "arch.name='tmr' is unknown (did you mean trm?)"),
        (["arch.num_heads=1024"], "num_heads=1024 is more than hidden_size=512"),
        (["arch.loss.loss_type=hinge"], "'hinge' is not one of stablemax_cross_entropy"),
        (["optimizer=muon", "optimizer.ns_steps=0"], "optimizer.ns_steps: 0 is not valid"),
        (["+experiment=sudoku6x6", "arch.damping=2"], "arch.damping: 2 is not valid"),  # its dtype asks torch
        (["epochs=3", "eval_interval=2"], "epochs=3 must be a multiple of eval_interval=2"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_errors_in_arguments_come_before_importing_torch(overrides, message):
    code, said, slow = run_listing_imports("pretrain.py", "data_paths=[nowhere]", *overrides)
    assert (code, slow) == (2, set())
    assert message in said


@pytest.mark.parametrize(("word", "completed"), [("arch=", "arch=hrm"), ("opt", "optimizer=")])
def test_the_shell_completes_without_torch(word, completed):
    line = f"python pretrain.py {word}"
    code, said, slow = run_listing_imports("pretrain.py", "-sc", "query=bash", COMP_LINE=line)
    assert (code, slow) == (0, set())
    assert completed in said.split()


def test_the_first_of_several_processes_reports_errors():
    arguments = ["data_paths=[nowhere]", "wrong=1"]
    assert "wrong: unknown key" in run_listing_imports("pretrain.py", *arguments, RANK="0", WORLD_SIZE="2")[1]
    assert run_listing_imports("pretrain.py", *arguments, RANK="1", WORLD_SIZE="2")[:2] == (2, "")


@pytest.mark.parametrize(
    "options",
    [
        *("optimizer=adam_atan2", "optimizer=adamw", "optimizer=muon"),
        pytest.param(
            "compile=fused arch.hidden_size=32", marks=needs_avx2
        ),  # a child process compiles the C++
    ],
)
def test_training_never_imports_the_compiler_unless_it_is_torch_compile(sudoku, tmp_path, options):
    overrides = [
        *TINY,
        *options.split(),
        f"data_paths=[{sudoku}]",
        f"checkpoint_path={tmp_path / 'run'}",
    ]
    command = ["-X", "importtime", "pretrain.py", *overrides, "epochs=1", "eval_interval=1"]
    done = run_python(*command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "torch" in imported
    assert ("compiled: compile=fused" in done.stdout) == ("compile=fused" in options)
    assert imported.isdisjoint({"torch._dynamo", "torch._inductor", "sympy", "wandb", "matplotlib"})


# When a command ends, prints whether garbage collection is enabled and skips imported objects.
AT_THE_END = """
import atexit, gc, runpy, sys
atexit.register(lambda: print("collects", gc.isenabled(), gc.get_freeze_count() > 50_000))
sys.path[0], sys.argv = ".", sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_garbage_is_collected_again_when_a_command_has_started(sudoku, tmp_path):
    run = f"checkpoint_path={tmp_path / 'run'}"
    training = ["pretrain.py", *TINY, f"data_paths=[{sudoku}]", run, "epochs=1", "eval_interval=1"]
    checkpoint = f"checkpoint={tmp_path / 'run'}"
    for command in (training, ["evaluate.py", checkpoint, "device=cpu"], ["solve.py", checkpoint]):
        done = run_python("-c", AT_THE_END, *command, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "collects True True", command[0]


# At the import of pydantic, which all of these commands need, prints whether garbage collection is enabled, and exits.
AT_PYDANTIC = """
import gc, runpy, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "pydantic":
            print("collects", gc.isenabled(), flush=True)
            sys.exit()
sys.meta_path.insert(0, Finder())
sys.path[0] = "."
"""


@pytest.mark.parametrize("command", [*HYDRA, *ABOUT_WEIGHTS])
def test_no_garbage_is_collected_during_the_imports(command):
    name = command.removeprefix("-m ")
    run = f"runpy.run_path({name!r}" if name == command else f"runpy.run_module({name!r}"
    script = f"{AT_PYDANTIC}\n{run}, run_name='__main__')"
    done = run_python("-c", script, cwd=ROOT)
    assert "collects False" in done.stdout, done.stdout + done.stderr


def test_every_architecture_has_settings_that_are_checked_without_importing_it():
    assert {name: cls.Config for name, cls in ARCHITECTURES.items()} == CONFIGS
    assert ACTLossHead.Config is loss_config(DEFAULT_LOSS)
    assert tuple(TOKEN_LOSSES) == LOSS_TYPES
