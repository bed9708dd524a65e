"""Measure the cost of datasets: time, peak memory and disk space of builds, and speed of batches.

python -m benchmarks.data --sources DIR [--sets sudoku maze arc arc-lazy] [--workers 2] [--folder DIR]
python -m benchmarks.data --sources DIR --against OTHER_TREE      also the streams of another checkout, in turn

DIR contains sudoku-extreme/{train,test}.csv, maze-30x30-hard/{train,test}.csv and arc-agi/arc-agi_{subset}_*.json;
only files of the chosen sets are needed. Results and comparisons: benchmarks/README.md.

Batches are measured as a training run reads them, with narrow tokens that are widened on the device, and also widened
to int32 in the data's own thread. Batches per second that are compared with another checkout are per second of the
thread's processor time, which is less affected by other load on the machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from dataset.options import OptionParser, whole_number
from dataset.parallel import available_cpus
from puzzle_dataset import Prefetcher, PuzzleDataset
from utils.errors import UserError, report_user_errors

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE = 768
# Epochs per iteration of the stream: the `eval_interval` of the published recipes, or enough batches.
EPOCHS = {"sudoku": 5000, "maze": 5000, "arc": 1000, "arc-lazy": 1000}

Result = TypeVar("Result")


def builder_arguments(name: str, sources: Path, num_aug: int, workers: int) -> list[str]:
    """Return the command line of the builder of a set, without its output folder."""
    csv = {"sudoku": sources / "sudoku-extreme", "maze": sources / "maze-30x30-hard"}.get(name)
    if name == "sudoku":
        subsample = ["--subsample-size", "1000", "--num-aug", str(num_aug)]
        return ["dataset.build_sudoku_dataset", "--source-csv", str(csv), *subsample]
    if name == "maze":
        return ["dataset.build_maze_dataset", "--source-csv", str(csv), "--subsample-size", "1000", "--aug"]
    subsets = ["--subsets", "training", "evaluation", "concept", "--test-set-name", "evaluation"]
    prefix = ["--input-file-prefix", str(sources / "arc-agi" / "arc-agi")]
    options = ["--num-aug", str(num_aug), "--workers", str(workers)]
    store = ["--store", "lazy" if name == "arc-lazy" else "full"]
    return ["dataset.build_arc_dataset", *prefix, *subsets, *options, *store]


@report_user_errors
def main(arguments: list[str] | None = None) -> None:
    parser = OptionParser(prog="benchmarks.data", description=__doc__.splitlines()[0])
    parser.add_argument("--sources", required=True, help="folder with the puzzles (see the top of this file)")
    parser.add_argument("--sets", nargs="+", choices=EPOCHS, default=list(EPOCHS), help="datasets to measure")
    parser.add_argument(
        "--num-aug", type=whole_number(0), default=1000, help="augmented copies of Sudoku and ARC"
    )
    parser.add_argument(
        "--workers", type=whole_number(1), default=available_cpus(), help="processes of the ARC builder"
    )
    parser.add_argument("--batches", type=whole_number(1), default=1000, help="batches per measurement")
    parser.add_argument(
        "--repeats", type=whole_number(1), default=3, help="measurements; the best is reported"
    )
    parser.add_argument("--folder", help="folder for temporary files; ARC needs 7 GB for 1,000 augmentations")
    parser.add_argument("--against", metavar="TREE", help="another checkout that reads the same data")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        paths = {name: Path(folder) / name for name in options.sets}
        print("| build | seconds | peak memory, MB | on disk, MB |\n|---|---|---|---|", flush=True)
        for name, path in paths.items():
            arguments = builder_arguments(name, Path(options.sources), options.num_aug, options.workers)
            seconds, peak = run_measured([*arguments, "--output-dir", str(path)])
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            print(f"| {name} | {seconds:.1f} | {peak / 1e6:.0f} | {size / 1e6:.1f} |", flush=True)
        streams = [
            (name, path, split)
            for name, path in paths.items()
            for split in (("train", "test") if name.startswith("arc") else ("train",))
        ]
        print("\n| stream | split | opened, s | first, s | resumed, s | batches/s | prefetched | as int32 |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name, path, split in streams:
            cells = stream(name, path, split, options.batches, options.repeats)
            print(f"| {name} | {split} | {cells} |", flush=True)
        if options.against:
            other = Path(options.against).resolve()
            print(
                "\n| stream | split | batches a CPU second | against | ratio |\n|---|---|---|---|---|",
                flush=True,
            )
            for name, path, split in streams:
                cells = compared(name, path, split, other, options.batches, options.repeats)
                print(f"| {name} | {split} | {cells} |", flush=True)


def run_measured(arguments: list[str]) -> tuple[float, int]:
    """Run `python -m ARGUMENTS`; return seconds and peak bytes, with workers. Raises `UserError` if it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    peaks, done = [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.05):  # a shorter interval would use a noticeable share of a core
            peaks.append(memory_of(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    message = process.communicate()[1]
    seconds = time.perf_counter() - started
    done.set()
    sampler.join()
    if process.returncode:
        raise UserError(f"{' '.join(command)} failed: {message.strip()}")
    return seconds, max(peaks)


def memory_of(process: int) -> int:
    """Return the resident bytes of a process and its children, counting shared pages for each; 0 without /proc."""
    total = 0
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(memory_of(int(child)) for child in (task / "children").read_text().split())
    except OSError:  # it has exited
        pass
    return total


def stream(name: str, path: Path, split: str, num_batches: int, repeats: int) -> str:
    """Return table cells: seconds to open, to the first batch and to one in the middle; batches per second."""
    epochs = {"epochs_per_iter": EPOCHS[name]} if split == "train" else {}
    opened, dataset = timed(lambda: PuzzleDataset([str(path)], split, global_batch_size=BATCH_SIZE, **epochs))
    first, _ = timed(lambda: next(dataset.batches(1)))
    resumed, _ = timed(lambda: next(dataset.batches(1, dataset.num_batches(1) // 2)))
    narrow, prefetched, wide = (
        max(rate(of_iteration(1 + n), num_batches) for n in range(repeats))
        for of_iteration in (
            lambda n: dataset.batches(n, narrow=True),
            lambda n: Prefetcher(dataset.batches(n, narrow=True)),
            dataset.batches,
        )
    )
    return f"{opened:.2f} | {first:.2f} | {resumed:.2f} | {narrow:,.0f} | {prefetched:,.0f} | {wide:,.0f}"


def rate(batches: Iterator, num_batches: int) -> float:
    """Return batches per second, without the first batch, which draws the order."""
    next(batches)
    seconds, count = timed(lambda: sum(1 for _ in islice(batches, num_batches)))
    batches.close()
    return count / seconds


# Run with the modules of a checkout: the rate of the batches of one iteration, as its training reads them.
_RATE_OF_TREE = """
import inspect, sys, time
from itertools import islice
import torch
from puzzle_dataset import PuzzleDataset
from utils import device
torch.set_num_threads(1)
if hasattr(device, "keep_freed_memory"):
    device.keep_freed_memory(torch.device("cpu"))
path, split, size, epochs, count, iteration = sys.argv[1:]
options = {"epochs_per_iter": int(epochs)} if split == "train" else {}
dataset = PuzzleDataset([path], split, global_batch_size=int(size), **options)
narrow = {"narrow": True} if "narrow" in inspect.signature(dataset.batches).parameters else {}
batches = dataset.batches(int(iteration), **narrow)
for _ in islice(batches, 100):  # the first one draws the order, the others warm up the memory
    pass
began = time.thread_time()
done = sum(1 for _ in islice(batches, int(count)))
print(done / (time.thread_time() - began))
"""


def compared(name: str, path: Path, split: str, other: Path, num_batches: int, repeats: int) -> str:
    """Return table cells: batches per second of processor time here and in another checkout, in turn, and the ratio."""
    rates: dict[Path, list[float]] = {ROOT: [], other: []}
    for iteration in range(1, repeats + 1):
        for tree, measured in rates.items():
            numbers = (BATCH_SIZE, EPOCHS[name], num_batches, iteration)
            command = [sys.executable, "-c", _RATE_OF_TREE, str(path), split, *map(str, numbers)]
            done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"reading {path} with {tree} failed: {done.stderr.strip()}")
            measured.append(float(done.stdout))
    here, against = max(rates[ROOT]), max(rates[other])
    return f"{here:,.0f} | {against:,.0f} | {here / against:.2f}"


def timed(function: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that a call took, and its result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
