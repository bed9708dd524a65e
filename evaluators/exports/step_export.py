"""Turn a trained model into an ONNX file or a web page: build it in float32, convert it, compare it with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset.families import family_of
from evaluators.exports.browser_page import PageContent, check_family, write_page
from evaluators.exports.onnx_check import NUM_STEPS, compare_with_torch
from evaluators.exports.onnx_step import (
    DESCRIPTION_NAME,
    MODEL_NAME,
    check_exportable,
    onnx_bytes,
    write_onnx,
)
from evaluators.sample_puzzles import (
    PUZZLES_NAME,
    SamplePuzzle,
    filed_puzzles,
    generated_puzzles,
    spread_puzzles,
)
from trained_run import OwnDataError, Trained, recorded_metadata

_COMPARED = 3  # puzzles


class StepExport:
    """A supervision step of a trained model as ONNX, to write as a file or as a page.

    `data_paths_test` are datasets of sample puzzles, see `ExportConfig`. Raises UserError if the model has no ONNX
    file, if the file disagrees with PyTorch, or if it is `for_page` and its family cannot be shown there.
    """

    def __init__(
        self,
        trained: Trained,
        sizes: dict[str, Any],
        data_paths_test: Sequence[str] | None,
        *,
        for_page: bool,
    ):
        self.trained = trained
        self.family = family_of(recorded_metadata(trained.metadata, sizes))
        self.blank_identifier = trained.metadata.get("blank_identifier_id", 0)
        if for_page:
            check_family(self.family)
        if (dtype := trained.settings().forward_dtype) != "float32":
            print(
                f"note: the model computes in {dtype}, its ONNX file in float32: answers may differ slightly"
            )
        self.head = trained.build(sizes=sizes, settings={"forward_dtype": "float32"})
        check_exportable(self.head)
        self.puzzles, self.source = self._sample_puzzles(data_paths_test)
        self.model = onnx_bytes(self.head)
        self._compare()

    def _sample_puzzles(self, data_paths_test: Sequence[str] | None) -> tuple[list[SamplePuzzle], str]:
        """Return sample puzzles and what one of them is."""
        filed = self.trained.located.folder / PUZZLES_NAME
        if data_paths_test is None and filed.is_file():
            return filed_puzzles(filed, self.family), "test puzzle"
        try:
            data = self.trained.open_data("test", data_paths_test, global_batch_size=1)
        except OwnDataError:
            return generated_puzzles(self.family, self.blank_identifier), "generated puzzle"
        self.trained.sizes_for(data.model_sizes, [path for path, _ in data.splits], print)
        return spread_puzzles(data), "test puzzle"

    def _compare(self) -> None:
        questions = [puzzle.question for puzzle in self.puzzles[:_COMPARED]]
        agreement = compare_with_torch(
            self.model, self.head, puzzles=np.stack(questions) if questions else None
        )
        print(
            f"{self.trained.label}: ONNX Runtime agrees with PyTorch over {NUM_STEPS} steps: largest difference of a "
            f"step {agreement.by_step:.1e}, of steps in a row {agreement.iterated:.1e}; "
            f"{agreement.same_answers:.2%} of the last answers equal"
        )

    def write_onnx(self, folder: Path) -> str:
        """Write the ONNX file and its description; returns a line about it."""
        write_onnx(folder, self.head, self.model)
        return f"{folder / MODEL_NAME}: {len(self.model) / 1e6:.1f} MB, described by {DESCRIPTION_NAME}"

    def write_page(self, folder: Path, runtime: Path | None) -> str:
        """Write the page, with the `runtime` of a local tarball or of the npm registry; returns a line about it."""
        content = PageContent(self.family, self.puzzles, self.source, self.blank_identifier)
        size = write_page(folder, self.head, self.model, content, runtime)
        return (
            f"{folder / 'index.html'}: {size / 1e6:.1f} MB with {len(self.puzzles)} sample puzzles ({self.source}); "
            f"open it in a browser, or serve it with python -m http.server --directory {folder}"
        )
