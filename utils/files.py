"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

TEMPORARY_SUFFIX = ".tmp"

_CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space there or choose another {option}"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a {option} that you may write to"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST), "a file stands where a folder must be: choose another {option}"
    ),
}


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file that is, after a crash at any moment, the old one or the whole new one, on disk when this returns.

    Raises `UserError` naming the path and the cure; the old file is then as it was.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its parents if need be; `UserError` if that, or writing into it, is not possible."""
    probe = path / f".writable.{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def writing_into(folder: Path, option: str) -> Iterator[None]:
    """Within the block an `OSError` becomes a `UserError` that names the file and `option`, which chose the folder."""
    try:
        yield
    except OSError as error:
        raise cannot_write(Path(error.filename or folder), error, option) from error


def cannot_write(path: Path, error: OSError, option: str = "checkpoint_path") -> UserError:
    """The message for a file or folder, chosen by `option`, that could not be written."""
    cure = _CURES.get(error.errno, "check the disk or choose another {option}").format(option=option)
    return UserError(f"{path}: cannot be written ({error.strerror or error}); {cure}")
