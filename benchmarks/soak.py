"""Kill a small training at random moments until it finishes, and check that the result is unchanged.

    python benchmarks/soak.py kills=50

Trains with EMA and puzzle embeddings on a CPU, saving every other step, so that many kills interrupt a save. Two of
three kills are SIGKILL, the others SIGTERM, SIGINT or SIGUSR1, on which the run saves. It is restarted with resume=auto
each time. At the end, weights, full state and metrics must be bit-identical to those of an uninterrupted run. Options:
kills, seconds (time limit, 0 for none), seed, longest_life (seconds), folder (kept).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch._dynamo  # imported by every optimizer at its first use; done here once, before forking
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import pretrain
from config.overrides import force_overrides
from config.schema import PretrainConfig
from dataset.format import SplitWriter, write_identifiers
from utils.distributed import World
from utils.strict_model import parse

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = {"kills": 50, "seconds": 0.0, "seed": 0, "longest_life": 2.5, "folder": ""}
TRAINING = [
    "arch.hidden_size=32",
    "arch.num_heads=2",
    "arch.H_cycles=2",
    "arch.L_cycles=1",
    "arch.L_layers=1",
    "arch.halt_max_steps=4",
    "arch.puzzle_emb_len=1",
    "arch.forward_dtype=float32",
    "arch.halt_exploration_prob=0.5",
    "device=cpu",
    "global_batch_size=16",
    "evaluators=[]",
    "epochs=320",
    "eval_interval=20",
    "lr=1e-3",
    "lr_warmup_steps=10",
    "ema=True",
    "log_interval=7",
    "checkpoint_interval_steps=2",
    "resume=auto",
]
SAVING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def write_data(folder: Path) -> None:
    """Write 24 groups of up to 3 examples with 8 identifiers; the answer is the input shifted by the identifier."""
    rng = np.random.default_rng(0)
    for split, num_groups in (("train", 24), ("test", 40)):
        with SplitWriter(folder / split, seq_len=9, vocab_size=11) as writer:
            for group in range(num_groups):
                identifier = np.array([1 + group % 8])
                inputs = rng.integers(1, 11, (1 + group % 3, 9))
                writer.add_group(inputs, 1 + (inputs + identifier) % 10, identifier, np.array([len(inputs)]))
            writer.close(9)
    write_identifiers(folder, ["<blank>", *"abcdefgh"])


def start(config: PretrainConfig, log: Path) -> int:
    """Train in a forked process with its output in `log`; return the process id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            with World() as world:
                code = pretrain.train(config, world).exit_code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return process


def exit_code(process: int, timeout: float | None = None) -> int | None:
    """Return the exit code of a process (negative for a signal), None if it still runs after `timeout` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        done, status = os.waitpid(process, 0 if deadline is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.001)


def outcome(folder: Path) -> dict[str, Any]:
    """Return the weights, last full state and metrics of a finished run, without times."""
    steps = [int(path.name[5:]) for path in folder.glob("step_*")]
    newest = max(folder.glob("state_step_*/*-shared.pt"), key=lambda path: int(path.name.partition("-")[0]))
    of_rank = newest.with_name(newest.name.replace("shared", "rank_0"))
    shared = torch.load(newest, weights_only=True)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": torch.load(folder / f"step_{max(steps)}", weights_only=True),
        "shared": {key: value for key, value in shared.items() if key not in ("facts", "seconds")},
        "rank": torch.load(of_rank, weights_only=True),
        "metrics": [
            {key: value for key, value in line.items() if key not in ("time", "train/seconds")}
            for line in lines
        ],
    }


def difference(one: Any, two: Any, where: str = "") -> str | None:
    """Return the path to the first difference between two nested containers, None if they are bit-identical."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return None if torch.equal(one, two) else where
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        pairs = [(one[key], two[key], f"{where}.{key}") for key in one]
    elif isinstance(one, list | tuple) and type(one) is type(two) and len(one) == len(two):
        pairs = [(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(one, two, strict=True))]
    else:
        return None if one == two else where
    return next(filter(None, (difference(*pair) for pair in pairs)), None)


def soak(kills: int, seconds: float, seed: int, longest_life: float, folder: Path) -> str:
    """Run the test in `folder` and return a summary. Raises AssertionError if a run did not end as expected."""
    write_data(folder / "data")
    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        composed = compose("cfg_pretrain", force_overrides([*TRAINING, f"data_paths=[{folder / 'data'}]"]))
    values = OmegaConf.to_container(composed, resolve=True)

    def life(run: Path) -> int:
        return start(parse(PretrainConfig, values | {"checkpoint_path": str(run)}), folder / "log.txt")

    os.environ["WANDB_DISABLED"] = "true"
    torch.set_num_threads(1)
    begun = time.monotonic()
    assert exit_code(life(folder / "undisturbed")) == 0, f"see {folder / 'log.txt'}"
    expected = outcome(folder / "undisturbed")
    num_steps, alone = expected["metrics"][-1]["step"], time.monotonic() - begun
    print(f"undisturbed: {num_steps} steps in {alone:.0f} s", flush=True)

    rng, hard, soft, runs = random.Random(seed), 0, 0, 0
    while hard + soft < kills and not 0 < seconds < time.monotonic() - begun:
        runs, run, code = runs + 1, folder / f"disturbed_{runs}", None
        while code != 0:
            process = life(run)
            more = hard + soft < kills and not 0 < seconds < time.monotonic() - begun
            code = exit_code(process, rng.uniform(0, longest_life) if more else None)
            if code is None:
                number = signal.SIGKILL if rng.random() < 2 / 3 else rng.choice(SAVING_SIGNALS)
                os.kill(process, number)
                code = exit_code(process)
                hard += code == -signal.SIGKILL
                soft += number != signal.SIGKILL and code != 0
                # 0 if it had just finished. Before handlers are installed, a signal kills it (exit code 1 for Ctrl-C).
                unhandled = (-number, 1) if number == signal.SIGINT else (-number,)
                assert code in (0, 128 + number, *unhandled), f"exit code {code}; see {folder / 'log.txt'}"
            else:
                assert code == 0, f"exit code {code}; see {folder / 'log.txt'}"
        where = difference(outcome(run), expected)
        assert where is None, f"{run} differs from the undisturbed run in {where}; see {folder / 'log.txt'}"
        print(f"run {runs}: equal after {hard + soft} kills, {time.monotonic() - begun:.0f} s", flush=True)
        shutil.rmtree(run)
    log = (folder / "log.txt").read_text()
    return (
        f"{hard + soft} kills ({hard} SIGKILL, {soft} signals that save) over {runs} runs of {num_steps} steps, "
        f"{log.count('resume: continuing')} resumes, {log.count('; skipped')} incomplete saves skipped: final weights, "
        f"full states and metrics are bit-identical to an uninterrupted run; {time.monotonic() - begun:.0f} s"
    )


def main() -> None:
    options = dict(OPTIONS)
    for argument in sys.argv[1:]:
        key, equals, value = argument.partition("=")
        if not equals or key not in options:
            sys.exit(
                f"error: {argument}: unknown; options are {', '.join(f'{k}={v}' for k, v in OPTIONS.items())}"
            )
        options[key] = type(OPTIONS[key])(value)
    kept = options.pop("folder")
    folder = Path(kept or tempfile.mkdtemp(prefix="soak-")).resolve()
    print(soak(**options, folder=folder))
    if not kept:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
