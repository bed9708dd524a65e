"""The file of a compiled C++ library: from the cache, or compiled by a child process.

torch's compiler takes over a second and 80 MB to import, which stay with the process. Therefore a process that uses the
library does not import it.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch


def compiled_file(source: str) -> Path:
    """Return the library that this C++ source compiles to.

    Raises RuntimeError with the compiler's message if it cannot be compiled.
    """
    # What the compiled code depends on besides the source; torch compiles for the processor that it runs on.
    made_for = torch.__version__, os.environ.get("CXX"), sorted(torch.cpu.get_capabilities().items())
    key = hashlib.sha256(f"{made_for}\n{source}".encode()).hexdigest()
    path = cache_folder() / f"{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        compile_in_child(source, path)
    return path


def compile_in_child(source: str, target: Path) -> None:
    script = Path(__file__).with_name("compile_library.py")
    command = [sys.executable, str(script), str(target)]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    if done.returncode:
        lines = done.stdout.strip() or done.stderr.strip() or f"compiling ended with status {done.returncode}"
        raise RuntimeError(lines)


def cache_folder() -> Path:
    """Return the folder of the libraries, in torch.compile's cache; torch's own module for it is slow to import."""
    chosen = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if chosen is not None:
        return Path(chosen).absolute() / "fused_cpu"
    try:
        user = getpass.getuser()
    except (KeyError, ImportError, OSError):  # no name, as in some containers
        user = "unknown"
    return Path(tempfile.gettempdir(), f"torchinductor_{user}", "fused_cpu").absolute()
