"""Run the commands of the guides in a shell as written, except for smaller models and fewer steps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pages import filled, page
from training_runs import ROOT, metrics

# Appended to each training command; the last override of a key wins.
SMALL = (
    "epochs=4 eval_interval=2 global_batch_size=8 arch.hidden_size=16 arch.num_heads=2 arch.halt_max_steps=2 "
    "arch.puzzle_emb_len=1 log_interval=4"
)
SAMPLES = ROOT / "tests" / "data"


def block(guide: str, heading: str, which: int = 0) -> str:
    """Return a `bash` block of a section of a guide, with the placeholders of the general form substituted."""
    return filled(page(f"docs/guides/{guide}.md").blocks("bash", heading)[which]).rstrip()


def line_of(commands: str, part: str) -> str:
    """Return the only line that contains `part`."""
    (line,) = [line for line in commands.splitlines() if part in line]
    return line


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Create a folder like a clone of the repository, with the Sudoku data that the commands of the guides build."""
    folder = tmp_path_factory.mktemp("place")
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            (folder / path.name).symlink_to(path)
    answer = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
    (folder / "csv").mkdir()
    for split, hidden in (("train", range(0, 40, 2)), ("test", range(1, 12, 2))):
        rows = [f"made,{answer[:i]}.{answer[i + 1 :]},{answer},0" for i in hidden]
        (folder / "csv" / f"{split}.csv").write_text(
            "source,question,answer,rating\n" + "\n".join(rows) + "\n"
        )
    shell(folder, block("sudoku", "Sudoku-Extreme") + " --subsample-size 10 --num_aug 2 --source-csv csv")
    generate = line_of(block("sudoku", "Generated puzzles"), "data/sudoku-6x6")
    shell(folder, generate + " --generate 16 --num-aug 1 --test-size 5")
    return folder


def shell(cwd: Path, script: str, **environment: str) -> str:
    """Run a script like a shell with the environment activated; return stdout and stderr combined."""
    done = run_shell(cwd, script, **environment)
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_shell(cwd: Path, script: str, **environment: str) -> subprocess.CompletedProcess:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    variables |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(cwd)}
    variables |= {"OMP_NUM_THREADS": "1", "WANDB_DISABLED": "true"} | environment
    return subprocess.run(
        ["bash", "-ec", script], cwd=cwd, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=600,
    )  # fmt: skip


def folder_of(place: Path, name: str) -> Path:
    return place / "checkpoints" / name


def test_the_general_form(place):
    shell(place, f"{block('training', 'Training')} {SMALL}")
    last = metrics(folder_of(place, "my_run"))[-1]
    assert {
        f"test/{name}" for name in ("lm_loss", "q_halt_loss", "accuracy", "exact_accuracy", "steps")
    } <= last.keys()
    made = {path.name for path in place.iterdir() if not path.is_symlink()}
    assert made <= {"data", "csv", "checkpoints", ".cache", ".config"}


def test_the_reference_run_and_its_mlp_variant(place):
    shell(place, f"{block('training', 'Sudoku 9x9')} {SMALL}")
    folder = folder_of(place, "pretrain_att_sudoku_pt")
    config = yaml.safe_load((folder / "all_config.yaml").read_text())
    assert (config["run_name"], config["ema"], config["evaluators"]) == ("pretrain_att_sudoku_pt", True, [])
    assert (config["weight_decay"], config["puzzle_emb_weight_decay"]) == (1.0, 1.0)
    weights = torch.load(max(folder.glob("step_*")), weights_only=True)
    assert any("self_attn" in name for name in weights)
    again = block("training", "Sudoku 9x9", 1)
    # Both spellings: with a plus for the folder, and without for the name.
    again = again.replace("+run_name", "run_name").replace("checkpoint_path", "+checkpoint_path")
    shell(place, f"{again} {SMALL}")
    weights = torch.load(max(folder_of(place, "pretrain_mlp_sudoku_pt").glob("step_*")), weights_only=True)
    assert not any("self_attn" in name for name in weights)


def test_six_by_six_without_embeddings_and_the_checks_for_memorisation(place):
    shell(place, f"{block('training', 'Sudoku 6x6 without puzzle embeddings')} {SMALL}", DISABLE_COMPILE="1")
    folder = folder_of(place, "sudoku6x6_debug")
    lines = metrics(folder)
    assert "test/steps" in lines[-1]
    assert any("train/exact_accuracy" in line for line in lines)
    evaluated = [line["step"] for line in lines if "test/steps" in line]
    assert len(evaluated) == 2
    for step in evaluated:
        saved = torch.load(folder / f"step_{step}_all_preds.0", weights_only=True)
        assert saved.keys() == {"preds"}
        assert saved["preds"].shape == (5, 36)
    out = shell(place, block("memorisation", "Three checks by hand"))
    assert out.count("5 predictions, ") == 2
    assert out.count("test/steps") == 2


def test_the_same_overrides_under_torchrun(place):
    """Set `compile=true`, which the environment disables."""
    launcher = "torchrun --nproc-per-node 2 --rdzv_backend=c10d --rdzv_endpoint=localhost:0 --nnodes=1"
    command = block("training", "Sudoku 9x9").replace('run_name="pretrain_att_sudoku_pt"', 'run_name="two"')
    command = command.replace("python pretrain.py", f"{launcher} pretrain.py")
    out = shell(place, f"{command} {SMALL} compile=true", DISABLE_COMPILE="1")
    assert out.count("eager: DISABLE_COMPILE is set") == 1  # only one rank prints
    assert metrics(folder_of(place, "two"))[-1].keys() >= {"test/exact_accuracy"}
    assert len(list(folder_of(place, "two").glob("state_step_*/*-rank_1.pt"))) == 2


def test_without_a_login_metrics_go_to_an_offline_run_with_one_line(place):
    command = block("training", "Training").replace("checkpoints/my_run", "checkpoints/offline")
    out = shell(place, f"{command} {SMALL}", WANDB_DISABLED="", WANDB_SILENT="true")
    assert out.count("logging offline below checkpoints/offline") == 1
    assert list(folder_of(place, "offline").glob("wandb/offline-run-*"))


def test_a_sweep_trains_each_combination_in_a_separate_folder(place):
    data = line_of(block("training", "Recipes"), "data/sudoku-4x4")
    shell(place, f"{data} --generate 16 --num-aug 1 --test-size 5")
    shell(place, f"{block('sweeps', 'Hydra')} {SMALL} epochs=2 eval_interval=1")
    for lr in ("0.001", "0.0003"):
        for seed in (0, 1):
            config = yaml.safe_load(
                (folder_of(place, "sweep") / f"lr_{lr}_seed_{seed}" / "all_config.yaml").read_text()
            )
            assert (config["lr"], config["seed"]) == (float(lr), seed)
    assert len(list(folder_of(place, "sweep").iterdir())) == 4
    assert (folder_of(place, "multirun.yaml")).exists()
    assert not (place / "outputs").exists()
    assert not (place / "multirun").exists()


@pytest.fixture(scope="module")
def demo(place) -> Path:
    """Train `checkpoints/demo`, which commands for trained models use."""
    shell(place, "python pretrain.py +experiment=sudoku6x6 checkpoint_path=checkpoints/demo " + SMALL)
    return place


@pytest.mark.slow
def test_solving_evaluating_and_exporting_a_trained_model(demo):
    for line in block("evaluating", "Solve one puzzle").splitlines():
        assert "step 1" in shell(demo, line)
    shell(demo, block("evaluating", "Evaluate"))
    lines = (folder_of(demo, "demo") / "evaluation_step_8" / "reports.jsonl").read_text().splitlines()
    reports = [json.loads(line) for line in lines]
    assert [report["halt_max_steps"] for report in reports] == [2, 32, 2, 2, 2]
    assert [report["strategy"] for report in reports] == [*["plain"] * 4, "ladder"]
    assert [report["options"]["halt"] for report in reports] == [False, False, True, "auto", False]
    (demo / "puzzles.txt").write_text(".1..6.....3.126.4...4.2.4.12....2..4\n" * 3)
    out = shell(demo, block("evaluating", "Solve a file of puzzles"))
    assert "3 puzzles: " in out
    assert len((demo / "answers.csv").read_text().splitlines()) == 4
    shell(demo, block("sharing", "Export and load"))
    (python,) = page("docs/guides/sharing.md").blocks("python", "Export and load")
    (demo / "load.py").write_text(python + "print(type(model).__name__)\n")
    assert "ACTLossHead" in shell(demo, "python load.py")


@pytest.mark.slow
def test_arc_and_mazes_from_local_files(place):
    shutil.copytree(SAMPLES / "arc", place / "arc")
    build = (
        block("arc", "Build the data")
        .partition("\npython")[0]
        .replace("kaggle/combined/arc-agi", "arc/sample")
    )
    shell(place, f"{build} --num-aug 2")
    shell(
        place,
        f"{line_of(block('mazes', 'Mazes'), 'to data/maze').partition('#')[0]} --source-csv {SAMPLES / 'maze'}",
    )
    commands = block("training", "ARC-AGI and mazes").replace("--nproc-per-node 4", "--nproc-per-node 2")
    arc, torchrun, maze = commands.rpartition("torchrun")
    shell(place, f"{arc.rstrip()} {SMALL} global_batch_size=2")
    folder = next(place.glob("checkpoints/Arc1concept-aug-1000-ACT-torch/arc1"))
    assert metrics(folder)[-1].keys() >= {"test/exact_accuracy", "ARC/pass@1"}
    assert list(folder.glob("evaluator_ARC_step_*/submission.json"))
    shell(place, f"{torchrun}{maze} {SMALL} global_batch_size=2")
    folder = next(place.glob("checkpoints/Maze-30x30-hard-1k-ACT-torch/maze"))
    assert metrics(folder)[-1].keys() >= {"test/exact_accuracy", "test/steps"}


SRUN = """#!/bin/bash
shift  # its own option
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!)
done
if [ -n "$SIGNAL_WHEN" ]; then
  until [ -s "$SIGNAL_WHEN" ]; do sleep 0.1; done
  kill -USR1 "${pids[@]}"
fi
code=0
for pid in "${pids[@]}"; do
  wait "$pid"
  status=$?
  if ((status > code)); then code=$status; fi
done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >> scontrol.log; fi
"""


@pytest.mark.slow
def test_the_slurm_script_saves_on_the_signal_requeues_itself_and_resumes(place):
    shell(
        place,
        f"{line_of(block('training', 'Recipes'), 'data/sudoku-4x4')} --generate 16 --num-aug 1 --test-size 5",
    )
    (place / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (place / "bin" / name).write_text(text)
        (place / "bin" / name).chmod(0o755)
    (place / ".venv" / "bin").mkdir(parents=True)
    (place / ".venv" / "bin" / "activate").touch()
    script = block("cluster", "Several nodes under Slurm").replace(
        "+experiment=arc1", f"+experiment=debug {SMALL}"
    )
    script = script.replace("log_interval=4", "log_interval=1 epochs=40 eval_interval=20")
    job = {"SLURM_SUBMIT_DIR": ".", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    job["PATH"] = f"{place / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    folder = folder_of(place, "arc1")
    (place / "job.sh").write_text(script)

    stopped = run_shell(place, "bash job.sh", SIGNAL_WHEN=str(folder / "metrics.jsonl"), **job)
    assert stopped.returncode == 138, stopped.stdout
    assert "stopped by SIGUSR1" in stopped.stdout
    assert (place / "scontrol.log").read_text() == "requeue 7\n"
    before = metrics(folder)
    out = shell(place, "bash job.sh", **job)
    assert "has no checkpoint yet" not in out
    assert (place / "scontrol.log").read_text() == "requeue 7\n"
    assert metrics(folder)[: len(before)] == before != []
    assert metrics(folder)[-1]["step"] > before[-1]["step"]
