"""Small ARC datasets for tests, built from the tasks in tests/data/arc."""

from __future__ import annotations

from pathlib import Path

from dataset.build_arc_dataset import main

PREFIX = Path(__file__).parent / "data" / "arc" / "sample"


def build(
    folder: Path, *options: str, subsets: str = "training concept evaluation", prefix: Path = PREFIX
) -> Path:
    """Build into `folder`, by default with 5 augmentations, and return it."""
    words = f"--input-file-prefix {prefix} --output-dir {folder} --test-set-name evaluation --num-aug 5 --workers 1"
    main([*words.split(), "--subsets", *subsets.split(), *options])
    return folder
