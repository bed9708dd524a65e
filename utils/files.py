"""Files that are written whole or not at all."""

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
# Process ids alone repeat, over time and between machines that share a disk.
_TOKEN = secrets.token_hex(4)
_TEMPORARY = re.compile(r"(.+)\.\d+-[0-9a-f]{8}" + re.escape(TEMPORARY_SUFFIX))

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
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file that is, after a crash at any moment, the old one or the whole new one; raises OSError."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def temporary_path(path: Path) -> Path:
    """The name under which this process, and no other, writes a file until it is complete."""
    return path.with_name(f"{path.name}.{os.getpid()}-{_TOKEN}{TEMPORARY_SUFFIX}")


def is_temporary(path: Path) -> bool:
    """Whether a process, perhaps an earlier one, uses this name for a file that is not complete."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporary_files(*folders: Path) -> None:
    """Remove what processes left behind that ended while writing; none may be writing now."""
    for folder in folders:
        for path in folder.glob(f"*{TEMPORARY_SUFFIX}"):
            if is_temporary(path):
                path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; the file takes the place of `path`, synced, when the block ends.

    If the block raises, `path` stays as it was and the temporary file is removed.
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
    """The path with a leading `~` as the home folder: shells expand it in some places only, not in `--out=~/x`."""
    return os.path.expanduser(path)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a crash of the machine."""
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, option: str = "checkpoint_path") -> None:
    """Create a folder and its parents if need be; `UserError` if that, or writing into it, is not possible."""
    probe = temporary_path(path / ".writable")
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(path, error, option) from error


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
