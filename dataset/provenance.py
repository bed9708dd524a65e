"""Record which source rows the puzzles of a dataset come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from utils.files import replacing

FILE_NAME = "source_rows.npy"


def write_source_rows(split_dir: Path, rows: np.ndarray | None) -> dict[str, str]:
    """Write the source row of each group, (groups,) int64, counted from 0 below the header.

    Returns the entries for dataset.json. None, for generated puzzles, removes an earlier file.
    """
    path = split_dir / FILE_NAME
    if rows is None:
        path.unlink(missing_ok=True)
        return {}
    rows = rows.astype(np.int64)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, rows)
    return {"source_rows": path.name, "source_rows_sha256": hashlib.sha256(rows.tobytes()).hexdigest()}
