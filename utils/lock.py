"""A lock on a folder that the operating system releases when its process ends, even after `kill -9`.

filelock's `FileLock` falls back to marker files on file systems without locks; a killed process would leave those.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from utils.errors import UserError
from utils.files import cannot_write
from utils.reading import parse_json

if os.name == "nt":
    import msvcrt
else:
    import fcntl

LOCK_FILE = ".lock"
# On Windows locked bytes cannot be read by others, so lock one far behind the holder's description.
_LOCKED_BYTE = 1 << 30


@contextmanager
def locked_folder(
    folder: Path, use: str, option: str, notice: Callable[[str], None] = print
) -> Iterator[bool]:
    """Context manager that holds the lock of an existing folder; yields True if it could be locked.

    Yields False, after a `notice`, on a file system without file locks. Raises `UserError` if another process holds the
    lock; its message names `use` ("a training run") and `option`, which chose the folder.
    """
    path = folder / LOCK_FILE
    descriptor = _open_locked(path, use, option, notice)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        if os.name != "nt":
            path.unlink(missing_ok=True)  # before releasing the lock, so that the next holder's file stays
        os.close(descriptor)
        if os.name == "nt":
            with suppress(OSError):  # cannot be removed if the next holder has opened it
                path.unlink()


def _open_locked(path: Path, use: str, option: str, notice: Callable[[str], None]) -> int | None:
    """Open and lock the file; returns its descriptor, or None if the file system has no locks."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(path, error, option) from error
        try:
            is_held = not _try_lock(descriptor)
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            notice(
                f"warning: {path.parent}: no file locks here ({error.strerror or error}), so nothing stops a second "
                f"process from writing to it"
            )
            return None
        if is_held:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UserError(
                f"{option}={path.parent}: {use} is under way there{holder}; wait for it, stop it, or choose another "
                f"{option}"
            )
        if _is_current(descriptor, path):
            break
        os.close(descriptor)  # the last holder removed the file between opening and locking
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
    except OSError as error:
        os.close(descriptor)
        raise cannot_write(path, error, option) from error
    return descriptor


def _try_lock(descriptor: int) -> bool:
    """Try to lock the file; False if another process holds the lock. Raises OSError without file locks."""
    try:
        if os.name == "nt":
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK):
            return False
        raise
    return True


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """Describe the lock's holder from its file; "" before that is written."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        holder = parse_json(os.read(descriptor, 4096), "the lock")
        return f" (process {holder['pid']} on {holder['host']}, since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        return ""
