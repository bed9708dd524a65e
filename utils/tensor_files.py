"""Read `torch.save` files from any source without running their code."""

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
_GARBLED = "its pickled contents are truncated or garbled"
# Errors of torch's pickle reader for such files, such as a missing key, whose messages do not help a user.
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
    """Load a `torch.save` file with tensors on the CPU.

    Raises `UserError` for a file that needs to run code, is damaged or has another format; `what` names the expected
    kind of file.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(4)
        if not beginning.startswith(_SAVED_BY_TORCH):
            other = f"it begins with {beginning!r}, unlike files of torch.save"
            raise _damaged(path, what, other if beginning else "it is empty")
        if zipfile.is_zipfile(path):  # torch reads damaged records without an error
            with zipfile.ZipFile(path) as records:
                if damaged := records.testzip():
                    raise UserError(f"{path}: is damaged, the checksum of {damaged} differs")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles, which are an error below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"(?:GLOBAL|[Cc]lass|[Ff]unction)\s+([\w.]+\.\w+)", str(error))
        code = f" ({wanted[1]})" if wanted else ""
        raise UserError(
            f"{path}: is a pickle that needs to run code{code} to be read, which is refused, because the code could do "
            "anything. If you trust the file, load it yourself and save its state_dict()"
        ) from error
    except UserError:
        raise
    except MemoryError as error:
        raise _damaged(path, what, "it needs more memory than is available") from error
    except PARSER_ERRORS as error:
        raise _damaged(path, what, _GARBLED) from error
    except (RuntimeError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise _damaged(path, what, reason) from error


def _damaged(path: Path, what: str, reason: str) -> UserError:
    return UserError(f"{path}: is damaged or not a {what} ({reason})")
