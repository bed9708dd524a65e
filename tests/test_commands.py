"""The documented training commands run as they are written, in a shell, made short only by sizes and length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from training_runs import ROOT, metrics

# Appended to each command: the later override wins.
SMALL = (
    "epochs=4 eval_interval=2 global_batch_size=8 arch.hidden_size=16 arch.num_heads=2 arch.halt_max_steps=2 "
    "arch.puzzle_emb_len=1 log_interval=4"
)
REFERENCE = """
run_name="pretrain_att_sudoku_pt"
python pretrain.py \\
  arch=trm \\
  data_paths="[data/sudoku-extreme-1k-aug-1000]" \\
  data_paths_test="[data/sudoku-extreme-1k-aug-1000]" \\
  evaluators="[]" \\
  epochs=50000 eval_interval=5000 \\
  lr=1e-4 puzzle_emb_lr=1e-4 weight_decay=1.0 puzzle_emb_weight_decay=1.0 \\
  arch.L_layers=2 \\
  arch.H_cycles=3 arch.L_cycles=6 \\
  +run_name=${run_name} checkpoint_path="checkpoints/${run_name}" ema=True"""
COMMANDS = {
    "general form": """
python pretrain.py \\
  arch=trm \\
  data_paths="[data/sudoku-6x6]" \\
  epochs=20 eval_interval=10 \\
  lr=1e-3 lr_warmup_steps=5 lr_min_ratio=0.5 \\
  arch.H_cycles=2 arch.L_cycles=2 arch.L_layers=1 \\
  +run_name="name_of_the_run" checkpoint_path="checkpoints/my_run\"""",
    "reference": REFERENCE,
    "mlp variant": REFERENCE + " arch.mlp_t=True arch.pos_encodings=none",
    "without embeddings": """
run_name="sudoku6x6_debug"
python pretrain.py \\
  arch=trm \\
  data_paths="[data/sudoku-6x6]" \\
  data_paths_test="[data/sudoku-6x6]" \\
  evaluators="[]" \\
  arch.puzzle_emb_ndim=0 \\
  arch.L_layers=2 arch.H_cycles=3 arch.L_cycles=6 \\
  global_batch_size=256 \\
  epochs=20000 eval_interval=2000 \\
  lr=1e-4 lr_warmup_steps=2000 lr_min_ratio=0.5 \\
  weight_decay=0.1 puzzle_emb_lr=0 \\
  +run_name=${run_name} checkpoint_path="checkpoints/${run_name}" \\
  eval_save_outputs="[preds]\"""",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working folder with the data that the commands name: 6x6, and 9x9 from a table of puzzles and answers."""
    folder = tmp_path_factory.mktemp("place")
    shell(folder, 'python "$ROOT/dataset/build_sudoku_dataset.py" --output-dir data/sudoku-6x6 --size 6 '
          "--generate 16 --num-aug 1 --test-size 5")  # fmt: skip
    answer = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
    (folder / "csv").mkdir()
    for split, hidden in (("train", range(0, 40, 2)), ("test", range(1, 12, 2))):
        rows = [f"made,{answer[:i]}.{answer[i + 1 :]},{answer},0" for i in hidden]
        (folder / "csv" / f"{split}.csv").write_text(
            "source,question,answer,rating\n" + "\n".join(rows) + "\n"
        )
    shell(folder, 'python "$ROOT/dataset/build_sudoku_dataset.py" \\\n  --output-dir data/sudoku-extreme-1k-aug-1000 '
          "\\\n  --subsample-size 10 \\\n  --num_aug 2 --source-csv csv")  # fmt: skip
    return folder


def shell(cwd: Path, script: str, **environment: str) -> str:
    """Run a script as a user's shell does after activating the environment; standard output and error together."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    variables |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ROOT": str(ROOT)}
    variables |= {"OMP_NUM_THREADS": "1", "WANDB_DISABLED": "true", "HOME": str(cwd)} | environment
    done = subprocess.run(
        ["bash", "-ec", script], cwd=cwd, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_command(
    place: Path, command: str, *, small: str = SMALL, launcher: str = "python", **environment: str
) -> str:
    script = command.replace("python pretrain.py", f'{launcher} "$ROOT/pretrain.py"', 1)
    return shell(place, f"{script} {small}", **environment)


def folder_of(place: Path, name: str) -> Path:
    return place / "checkpoints" / name


def test_the_general_form(place):
    run_command(place, COMMANDS["general form"])
    last = metrics(folder_of(place, "my_run"))[-1]
    assert {
        f"test/{name}" for name in ("lm_loss", "q_halt_loss", "accuracy", "exact_accuracy", "steps")
    } <= last.keys()
    assert {path.name for path in place.iterdir()} <= {"data", "csv", "checkpoints", ".cache", ".config"}


def test_the_reference_run_and_its_mlp_variant(place):
    run_command(place, COMMANDS["reference"])
    folder = folder_of(place, "pretrain_att_sudoku_pt")
    config = yaml.safe_load((folder / "all_config.yaml").read_text())
    assert (config["run_name"], config["ema"], config["evaluators"]) == ("pretrain_att_sudoku_pt", True, [])
    assert (config["weight_decay"], config["puzzle_emb_weight_decay"]) == (1.0, 1.0)
    weights = torch.load(max(folder.glob("step_*")), weights_only=True)
    assert any("self_attn" in name for name in weights)
    again = COMMANDS["mlp variant"].replace('run_name="pretrain_att_sudoku_pt"', 'run_name="mlp"')
    # The same spelling, and the other one: with a plus for the folder and without for the name.
    run_command(place, again.replace("+run_name", "run_name").replace("checkpoint_path", "+checkpoint_path"))
    weights = torch.load(max(folder_of(place, "mlp").glob("step_*")), weights_only=True)
    assert not any("self_attn" in name for name in weights)


def test_six_by_six_without_embeddings_saves_what_the_checks_for_memorisation_need(place):
    run_command(place, COMMANDS["without embeddings"], DISABLE_COMPILE="1")
    folder = folder_of(place, "sudoku6x6_debug")
    lines = metrics(folder)
    assert "test/steps" in lines[-1]
    assert any("train/exact_accuracy" in line for line in lines)
    for step in (line["step"] for line in lines if "test/steps" in line):
        saved = torch.load(folder / f"step_{step}_all_preds.0", weights_only=True)
        assert saved.keys() == {"preds"}
        assert saved["preds"].shape == (5, 36)


def test_the_same_overrides_behind_torchrun(place):
    """With `compile=true` asked for and turned off by the environment."""
    launcher = "torchrun --nproc-per-node 2 --rdzv_backend=c10d --rdzv_endpoint=localhost:0 --nnodes=1"
    command = COMMANDS["reference"].replace('run_name="pretrain_att_sudoku_pt"', 'run_name="two"')
    out = run_command(place, command, small=SMALL + " compile=true", launcher=launcher, DISABLE_COMPILE="1")
    assert out.count("eager: DISABLE_COMPILE is set") == 1  # only one rank talks
    assert metrics(folder_of(place, "two"))[-1].keys() >= {"test/exact_accuracy"}
    assert len(list(folder_of(place, "two").glob("state_step_*/*-rank_1.pt"))) == 2


def test_without_a_login_metrics_go_to_an_offline_run_with_one_line_and_no_question(place):
    command = COMMANDS["general form"].replace("checkpoints/my_run", "checkpoints/offline")
    out = run_command(place, command, WANDB_DISABLED="", WANDB_SILENT="true")
    assert out.count("logging offline below checkpoints/offline") == 1
    assert list(folder_of(place, "offline").glob("wandb/offline-run-*"))
