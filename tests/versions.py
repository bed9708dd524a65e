"""Constraints for other versions than the tested ones: `python tests/versions.py lowest` or `newest`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def lowest() -> list[str]:
    """Pin each package that training needs to the lowest version that its range allows."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([\w.-]+)>=([\w.]+)", line) for line in lines)
    return [f"{match[1]}=={match[2]}" for match in found if match]


def newest() -> list[str]:
    """Pin nothing, so that pip takes the newest version that each range allows."""
    return []


if __name__ == "__main__":
    print("\n".join({"lowest": lowest, "newest": newest}[sys.argv[1]]()))
