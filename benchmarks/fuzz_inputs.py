"""Valid files, arguments and texts, which `benchmarks/fuzz.py` damages."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from hydra import compose, initialize_config_dir

from config.overrides import resolved
from config.schema import PretrainConfig
from dataset.build_arc_dataset import main as build_arc
from dataset.format import SplitWriter, write_identifiers
from dataset.metadata import Metadata
from models.registry import build_model
from utils import state_files
from utils.strict_model import parse

CONFIGS = Path(__file__).resolve().parents[1] / "config"
SOLVED_4X4 = ("1234341221434321", "2143432112343412", "4321214334121234")
SIZES = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 4}
ARCH = {
    "hidden_size": 16,
    "num_heads": 2,
    "L_layers": 1,
    "puzzle_emb_ndim": 16,
    "puzzle_emb_len": 1,
    "halt_max_steps": 2,
    "forward_dtype": "float32",
}
TASK = {
    "train": [{"input": [[1, 2], [3, 4]], "output": [[4]]}, {"input": [[0]], "output": [[1, 1]]}],
    "test": [{"input": [[5, 6]], "output": [[6], [5]]}],
}
_NINE = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
_DRAWN = "\n".join(_NINE[start : start + 9] for start in range(0, 81, 9))
SUDOKU_TEXTS = [text.encode() for text in (_NINE, _NINE.replace("0", "."), _DRAWN, "|".join(_NINE))]
MAZE_TEXTS = [b"####\n#S.#\n#.G#\n####", b"####/#S #/# G#/####"]
_LIST = "".join(f"{grid[:6]}0{grid[7:11]}0{grid[12:]}\n" for grid in SOLVED_4X4 * 2)
LISTS = [_LIST.encode(), _LIST.replace("0", ".").encode()]
_ROWS = (f"x{i},{'0' + solved[1:]},{solved},{i}\n" for i, solved in enumerate(SOLVED_4X4))
_TABLE = "source,question,answer,rating\n" + "".join(_ROWS)
TABLES = [_TABLE.encode(), _TABLE.replace("\n", "\r\n").encode()]
METRICS = [b'{"step": 1, "time": 2.5, "train/lm_loss": 0.5}\n{"step": 2, "test/accuracy": null}\n']
BEST = [b'{"step": 3, "metric": "test/exact_accuracy", "value": 0.5}']
BUILDER_OPTIONS = [
    b"--output-dir=a\n--generate\n20\n--num_aug=3\n--size=6",
    b"--output-dir\na\n--generate=5\n--test_size\n3\n--seed=1",
]
SOLVE_ARGUMENTS = [b"checkpoint=a\nindex=3", b"checkpoint=a\npuzzle=12.\nsteps=4\nseq_len=9"]
OVERRIDES = [
    b"arch=trm\ndata_paths=[data/x]\nepochs=100\neval_interval=10\nlr=1e-4\n+run_name=a",
    b"arch=hrm\narch.hidden_size=64\narch.L_cycles=3\nema=True\nevaluators=[]\nseed=5",
    b"optimizer=muon\noptimizer.lr=0.02\narch.loss.loss_type=softmax_cross_entropy\ncheckpoint_path='a b'\ndevice=cpu",
]


def family_metadata(family: str, seq_len: int, vocab_size: int) -> Metadata:
    return Metadata(0, 0, 0, vocab_size, seq_len, 1, 1, 1.0, 1, ("all",), {"family": family})


def write_dataset(folder: Path) -> Path:
    """Write a 4x4 Sudoku dataset with three identifiers."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        extra = {
            "family": "sudoku",
            "grid_shape": [4, 4],
            "box_shape": [2, 2],
            "difficulty": "guesses",
            "store": "npy",
        }
        with SplitWriter(folder / split, seq_len=16, vocab_size=6, extra=extra) as writer:
            for identifier in (1, 2, 3):
                answers = np.array([[int(c) + 1 for c in solved] for solved in SOLVED_4X4[:2]])
                questions = np.where(rng.random(answers.shape) < 0.5, answers, 1)
                writer.add_group(questions, answers, np.array([identifier]), np.array([2]))
            writer.close(4)
    write_identifiers(folder, ["<blank>", "a", "b", "c"])
    return folder


def write_lazy(folder: Path) -> Path:
    """Build a lazily stored ARC dataset of two tasks."""
    folder.mkdir()
    (folder / "x_training_challenges.json").write_text(json.dumps({"a": TASK}))
    (folder / "x_evaluation_challenges.json").write_text(json.dumps({"b": TASK}))
    options = ["--subsets", "training", "evaluation", "--test-set-name", "evaluation", "--num-aug", "3"]
    options += ["--store", "lazy", "--workers", "1", "--output-dir", str(folder / "out")]
    build_arc(["--input-file-prefix", str(folder / "x"), *options])
    return folder / "out"


def write_run(folder: Path) -> Path:
    """Write the folder of a run, with weights and a full state of a small model."""
    folder.mkdir()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        values = resolved(
            compose("cfg_pretrain", [f"++arch.{key}={value}" for key, value in ARCH.items()]), PretrainConfig
        )
    config = parse(PretrainConfig, values).model_dump()
    (folder / "all_config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    facts = family_metadata("sudoku", 16, 6).to_json() | SIZES | {"identifiers_sha256": [None]}
    (folder / "metadata.json").write_text(json.dumps(facts), encoding="utf-8")
    state = build_model(config["arch"], **SIZES).state_dict()
    for name in ("step_3", "best"):
        torch.save(state, folder / name)
    (folder / "state_step_3").mkdir()
    whole = state_files.Checkpoint(folder / "state_step_3", 3, 1)
    state_files.write_parts(whole, 0, {"shared": {"step": 3}, "rank_0": {}})
    return folder


def legacy_weights() -> bytes:
    """Return weights in the format that torch used before zip files."""
    content = io.BytesIO()
    torch.save({"w": torch.zeros(3), "b": torch.ones(2)}, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


def manifest(run: Path) -> bytes:
    return (run / "state_step_3" / "1-rank_0.json").read_bytes()


def candidates() -> bytes:
    content = io.BytesIO()
    columns = {
        "slots": np.array([0], np.int32),
        "digests": np.zeros((1, 32), np.uint8),
        "votes": np.array([2], np.int64),
        "confidences": np.array([0.5]),
    }
    np.savez_compressed(content, fingerprint=np.array("x"), **columns)
    return content.getvalue()
