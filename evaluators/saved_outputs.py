"""Save the outputs of an evaluation batch by batch, so that memory does not grow with their number.

Shapes: B rows on this rank.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from utils.files import replacing, temporary_path, writing_into


class SavedOutputs:
    """Append rows to one temporary file per name; `write` combines them into `path`, a `torch.save` of a dict.

    A context manager that removes the temporary files. Does nothing without a `path` or `names`.
    """

    def __init__(self, path: Path | None, names: Collection[str]):
        self.path, self.names = path, tuple(names) if path is not None else ()
        self._files: dict[str, object] = {}
        self._kinds: dict[str, tuple[torch.dtype, torch.Size]] = {}

    def __enter__(self) -> SavedOutputs:
        return self

    def add(self, rows: dict[str, Tensor]) -> None:
        """Append those of the (B, ...) CPU tensors that are in `names`. Raises UserError if writing fails."""
        for name in self.names:
            tensor = rows[name].contiguous()
            kind = tensor.dtype, tensor.shape[1:]
            assert self._kinds.setdefault(name, kind) == kind, (
                f"{name} changed from {self._kinds[name]} to {kind}"
            )
            with writing_into(self.path.parent, "checkpoint_path"):
                if name not in self._files:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._files[name] = open(self._piece(name), "wb")  # noqa: SIM115 - open until __exit__
                self._files[name].write(tensor.view(torch.uint8).numpy() if tensor.numel() else b"")

    def write(self) -> None:
        """Write the added rows to `path`, unless there are none. Raises UserError if writing fails."""
        if not self._files:
            return
        with writing_into(self.path.parent, "checkpoint_path"):
            for file in self._files.values():
                file.flush()
            # The files are memory-mapped, not read into memory.
            with replacing(self.path) as temporary:
                torch.save({name: self._mapped(name) for name in self._files}, temporary)

    def __exit__(self, *_) -> None:
        for name, file in self._files.items():
            file.close()
            self._piece(name).unlink(missing_ok=True)

    def _piece(self, name: str) -> Path:
        return temporary_path(self.path.with_name(f"{self.path.name}.{name}"))

    def _mapped(self, name: str) -> Tensor:
        dtype, shape = self._kinds[name]
        num_elements = os.path.getsize(self._piece(name)) // dtype.itemsize
        flat = torch.from_file(str(self._piece(name)), shared=True, size=num_elements, dtype=dtype)
        return flat.view(-1, *shape)
