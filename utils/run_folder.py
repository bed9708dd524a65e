"""The folder of a run: its name, its lock, and the files that document the run."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from utils.distributed import World
from utils.errors import UserError
from utils.files import is_temporary, make_folder, write_text
from utils.lock import locked_folder
from utils.loggers import METRICS_FILE
from utils.yaml_text import to_yaml

CONFIG_FILE = "all_config.yaml"
METADATA_FILE = "metadata.json"
SOURCE_FOLDER = "source"


def default_run_name(model_class: str) -> str:
    """Return `{model class}-{two random words}`, from the system's randomness so that it differs for equal seeds."""
    before = random.getstate()
    import coolname  # uses the global generator, which the run has seeded, when it is imported

    coolname.replace_random(random.SystemRandom())
    random.setstate(before)
    return f"{model_class}-{coolname.generate_slug(2)}"


def create_run_folder(folder: Path, config: dict, metadata: dict, sources: list[Path]) -> None:
    """Write the resolved config, the data's metadata and the model's source files.

    Raises UserError if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CONFIG_FILE, to_yaml(config))
        write_text(folder / METADATA_FILE, json.dumps(metadata, indent=2) + "\n")
        for source in sources:
            target = folder / SOURCE_FOLDER / source.name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(
            f"checkpoint_path={folder}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error


def holds_a_run(folder: Path) -> bool:
    """True if the folder has weights, a state or metrics; a start that failed before its first step has none."""
    metrics = folder / METRICS_FILE
    has_metrics = metrics.exists() and metrics.stat().st_size > 0
    saved = (path for name in ("step_*", "state_step_*") for path in folder.glob(name))
    return has_metrics or any(not is_temporary(path) for path in saved)


@contextmanager
def locked_run_folder(folder: Path, world: World) -> Iterator[bool]:
    """Context manager that creates and locks a run's folder; yields False if the file system has no locks.

    All ranks call it together. Raises `UserError`, on all ranks, if another run is training there.
    """
    with ExitStack() as stack:
        answer: bool | UserError | None = None
        if world.is_main:
            try:
                make_folder(folder)
                lock = locked_folder(folder, "another training", "checkpoint_path", world.print)
                answer = stack.enter_context(lock)
            except UserError as error:
                answer = error
        answer = world.broadcast_object(answer)
        if isinstance(answer, UserError):
            raise answer
        yield answer
