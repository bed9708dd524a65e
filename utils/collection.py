"""Pause garbage collection while a command starts: it takes a fifth of the time of imports and finds nothing.

Like `utils.interrupts`, imports only what Python has loaded already.
"""

from __future__ import annotations

import gc


def pause_collection() -> None:
    """Stop collecting garbage until `resume_collection`; for the first lines of a script that imports torch."""
    gc.disable()


def resume_collection() -> None:
    """Collect garbage again, if it was paused, but not what has been imported, which stays until the process ends."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
