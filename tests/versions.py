"""Constraints for other versions than the tested ones: `python tests/versions.py lowest` or `newest`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def ranges(*names: str) -> dict[str, str]:
    """Return the packages of requirement files with the lowest versions that their ranges allow."""
    lines = [line for name in names for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    found = (re.match(r"([\w.-]+)>=([\w.]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def lowest() -> list[str]:
    """Pin each package of requirements.txt and requirements-onnx.txt to its lowest version."""
    lowest_versions = ranges("requirements-min.txt", "requirements.txt", "requirements-onnx.txt")
    return [f"{package}=={version}" for package, version in lowest_versions.items()]


def newest() -> list[str]:
    """Pin nothing, so that pip takes the newest version that each range allows."""
    return []


if __name__ == "__main__":
    print("\n".join({"lowest": lowest, "newest": newest}[sys.argv[1]]()))
