"""TensorBoard logger: event files in `tensorboard/` of the run's folder."""

from __future__ import annotations

import io
from collections.abc import Mapping

from utils.errors import UserError
from utils.loggers.base import LoggedRun, Logger
from utils.yaml_text import to_yaml

FOLDER = "tensorboard"


class TensorBoardLogger(Logger):
    """Writes scalars, pictures and the config; a resumed run hides events after the step of its state."""

    takes_pictures = True

    def __init__(self, run: LoggedRun):
        writer = _writer_class()
        self._writer = writer(str(run.directory / FOLDER), purge_step=run.step + 1 if run.step else None)
        # In Markdown four spaces make a code block.
        config = to_yaml(run.config)
        self._writer.add_text("config", "".join(f"    {line}\n" for line in config.splitlines()), run.step)

    @classmethod
    def check(cls, *, sweep: bool = False) -> None:
        _writer_class()

    @classmethod
    def start(cls, run: LoggedRun) -> TensorBoardLogger:
        return cls(run)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def draw(self, pictures: Mapping[str, bytes], step: int) -> None:
        import numpy as np
        from PIL import Image

        for name, png in pictures.items():
            pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


def _writer_class() -> type:
    """Import torch's writer of event files. Raises UserError if the tensorboard package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            f"logger=tensorboard needs the package tensorboard ({error}): pip install tensorboard, or choose another "
            "logger"
        ) from error
    return SummaryWriter
