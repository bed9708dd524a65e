"""Compile C++ with torch's compiler: `python compile_library.py TARGET < SOURCE`, run by `compiled_file.py`.

Imports nothing of this project. If it fails, the exit status is 1 and the output is the error.
"""

from __future__ import annotations

import inspect
import os
import shutil
import sys


def compile_library(source: str, target: str) -> None:
    """Compile the source and write the library to `target`, at once; raises the compiler's error."""
    from torch._inductor.codecache import CppCodeCache

    # Skip a test, which takes seconds, of the compiler's vector instructions: only code of torch.compile needs it.
    known = inspect.signature(CppCodeCache.load_async).parameters
    loaded = CppCodeCache.load(source, **({"needs_vec_isa": False} if "needs_vec_isa" in known else {}))
    partial = f"{target}.{os.getpid()}"
    shutil.copy(loaded._name, partial)
    os.replace(partial, target)


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules would hide others of the same names
    try:
        compile_library(sys.stdin.read(), sys.argv[1])
    except Exception as error:  # compilers and loaders raise all kinds
        print(error)
        sys.exit(1)
