"""Atomic file writing."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError

TEMPORARY_SUFFIX = ".tmp"
# Process ids alone are not unique over time and between machines that share a disk.
_TOKEN = secrets.token_hex(4)
_TEMPORARY = re.compile(r"(.+)\.\d+-[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX))

_CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space there or choose another {option}"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a {option} that you may write to"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EEXIST), "there is a file where a folder must be: choose another {option}"
    ),
}


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically and durably: after a crash it is either the old or the complete new one.

    Raises `UserError` naming the path and the cure; the old file is then unchanged.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically and durably, see `write_atomically`; raises OSError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def temporary_path(path: Path) -> Path:
    """Return a name, unique to this process, under which to write a file until it is complete."""
    return path.with_name(f"{path.name}.{os.getpid()}-{_TOKEN}{TEMPORARY_SUFFIX}")


def is_temporary(path: Path) -> bool:
    """True if the name is that of an incomplete file, of this or another process."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporary_files(*folders: Path) -> None:
    """Remove incomplete files of ended processes; no process may be writing now."""
    for folder in folders:
        for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
            if is_temporary(path):
                path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context manager that yields a temporary path to write to, which replaces `path`, synced, at the end.

    If the block raises, `path` is unchanged and the temporary file is removed.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def expand_home(path: str) -> str:
    """Expand a leading `~` to the home folder, because shells do not expand it in `--out=~/x`."""
    return os.path.expanduser(path)


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to disk."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, option: str = "checkpoint_path") -> None:
    """Create a folder and its parents if needed. Raises `UserError` if that fails or it is not writable."""
    probe = temporary_path(path / ".writable")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(path, error, option) from error


@contextmanager
def writing_into(folder: Path, option: str) -> Iterator[None]:
    """Context manager that converts `OSError` to a `UserError` naming the file and `option`, which chose the folder."""
    try:
        yield
    except OSError as error:
        raise cannot_write(Path(error.filename or folder), error, option) from error


def cannot_write(path: Path, error: OSError, option: str = "checkpoint_path") -> UserError:
    """Return the error for a file or folder, chosen by `option`, that could not be written."""
    cure = _CURES.get(error.errno, "check the disk or choose another {option}").format(option=option)
    return UserError(f"{path}: cannot be written ({error.strerror or error}); {cure}")
