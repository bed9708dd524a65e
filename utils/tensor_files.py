"""Read what `torch.save` wrote, whoever wrote it, without running code of the file."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError

_SAVED_BY_TORCH = (b"PK", b"\x80")  # a zip archive; a pickle, as old versions wrote
_GARBLED = "what is pickled in it is cut off or garbled"
# How torch's reader of pickles fails at such a file: with a missing key or the like, which says nothing to a user.
PARSER_ERRORS = (
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    RecursionError,
    struct.error,
)


def load(path: Path, what: str = "weights file") -> Any:
    """The object in a file of `torch.save`, tensors on the CPU.

    Raises `UserError` for a file that wants to run code, that is damaged, or that is no such file; `what` is what
    the file should have been.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(4)
        if not beginning.startswith(_SAVED_BY_TORCH):
            other = f"it begins with {beginning!r}, unlike all that torch.save writes"
            raise _damaged(path, what, other if beginning else "it is empty")
        if zipfile.is_zipfile(path):  # torch itself reads damaged records without a word
            with zipfile.ZipFile(path) as records:
                if damaged := records.testzip():
                    raise UserError(f"{path}: is damaged, the checksum of {damaged} differs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles, which end in an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|[Cc]lass|[Ff]unction)\s+([\w.]+\.\w+)", str(error))
        code = f" ({wanted[1]})" if wanted else ""
        raise UserError(
            f"{path}: is a pickle that wants to run code{code} while it is read, which is refused: a file from "
            "somebody else could do anything. If it is yours, load it where you trust it and save its state_dict()"
        ) from error
    except UserError:
        raise
    except MemoryError as error:
        raise _damaged(path, what, "it needs more memory than there is") from error
    except PARSER_ERRORS as error:
        raise _damaged(path, what, _GARBLED) from error
    except (RuntimeError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise _damaged(path, what, reason) from error


def _damaged(path: Path, what: str, reason: str) -> UserError:
    return UserError(f"{path}: is damaged or no {what} ({reason})")
