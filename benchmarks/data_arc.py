"""Cost of ARC datasets: building both stores and streaming from them.

python -m benchmarks.data_arc --input-file-prefix PREFIX [--num-aug 1000] [--workers 2] [--folder DIR]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

if not __package__:  # started by its path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from dataset.parallel import available_cpus
from puzzle_dataset import PuzzleDataset

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="benchmarks.data_arc", description=__doc__.splitlines()[0])
    parser.add_argument("--input-file-prefix", required=True)
    parser.add_argument("--subsets", nargs="+", default=["training", "evaluation", "concept"])
    parser.add_argument("--test-set-name", default="evaluation")
    parser.add_argument("--num-aug", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=available_cpus())
    parser.add_argument("--folder", help="where to build; needs 7 GB for 1,000 augmentations")
    parser.add_argument(
        "--batches", type=int, default=500, help="batches of 768 per measurement of the stream"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for store in ("lazy", "full"):
            print(report_build(Path(folder) / store, store, options), flush=True)
        for split in ("train", "test"):
            for store in (
                "full",
                "lazy",
                "full",
                "lazy",
            ):  # twice: other load on the machine shows as a difference
                print(report_stream(Path(folder) / store, split, options.batches), flush=True)


def report_build(folder: Path, store: str, options: argparse.Namespace) -> str:
    """Build in a process of its own; seconds, memory of it with its workers, bytes on disk."""
    command = [
        sys.executable,
        "-m",
        "dataset.build_arc_dataset",
        "--store",
        store,
        "--output-dir",
        str(folder),
    ]
    command += ["--input-file-prefix", options.input_file_prefix, "--test-set-name", options.test_set_name]
    command += [
        "--num-aug",
        str(options.num_aug),
        "--workers",
        str(options.workers),
        "--subsets",
        *options.subsets,
    ]
    seconds, peak = run_measured(command)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"build {store}: {seconds:.1f} s, {peak / 1e6:.0f} MB of memory, {size / 1e6:,.1f} MB on disk"


def report_stream(folder: Path, split: str, batches: int) -> str:
    """Batches of 768 per second on one core, the first (which draws the order) left out."""
    started = time.perf_counter()
    epochs = {"epochs_per_iter": 1000} if split == "train" else {}
    dataset = PuzzleDataset([str(folder)], split, global_batch_size=768, **epochs)
    opened = time.perf_counter() - started
    stream = iter(dataset)
    next(stream)
    started, cpu = time.perf_counter(), time.process_time()
    count = sum(1 for _ in islice(stream, batches))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return (
        f"stream {folder.name} {split}: opened in {opened:.1f} s, {count / seconds:,.0f} batches/s, "
        f"{count / cpu:,.0f} per second of CPU time"
    )


def run_measured(command: list[str]) -> tuple[float, int]:
    """Seconds and the largest resident bytes of a command with all its processes, sampled (0 without /proc)."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, peak


def resident_bytes(session: int) -> int:
    """Resident memory of all processes of a session; pages that they share count once for each."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int((folder / "statm").read_text().split()[1]) * 4096
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    return total


if __name__ == "__main__":
    main()
