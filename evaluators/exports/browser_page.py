"""Write a static page that solves puzzles in the browser: HTML, JavaScript, the model and ONNX Runtime Web.

All of it is loaded by script tags, the model and the runtime as compressed base64, because a browser lets a page that
is opened from disk (`file://`) load scripts, but not fetch files.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.families.base import Family
from dataset.families.grid_style import Kind
from evaluators.exports.onnx_step import describe_step
from evaluators.playground import MOST_STEPS
from evaluators.sample_puzzles import SamplePuzzle
from models.losses import ACTLossHead
from utils.errors import UserError
from utils.files import write_text, writing_into
from utils.npm import NpmPackage

RUNTIME = NpmPackage(
    "onnxruntime-web",
    "1.30.0",
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
_RUNTIME_FILES = {
    "script": "dist/ort.wasm.min.js",
    "glue": "dist/ort-wasm-simd-threaded.mjs",
    "wasm": "dist/ort-wasm-simd-threaded.wasm",
}
_SOURCES = Path(__file__).with_name("page")
STATIC_FILES = tuple(sorted(path.name for path in _SOURCES.iterdir()))
WRITTEN_FILES = ("data.js", "family.js", "model.js", "runtime.js")
PAGE_FILES = (*STATIC_FILES, *WRITTEN_FILES)


@dataclass(frozen=True)
class PageContent:
    """What the page shows, besides the model."""

    family: Family
    puzzles: Sequence[SamplePuzzle]
    source: str
    """What the sample puzzles are, in a few words."""
    blank_identifier: int = 0
    """Identifier given to the model for puzzles that are typed."""


def check_family(family: Family) -> None:
    """Raise UserError if the page cannot show answers to puzzles of this family."""
    if type(family).counted is not Family.counted:
        raise UserError(
            f"page=: a model of {family.name}, whose answers are cropped by its method counted, which a page without "
            "Python cannot run; solve.py shows such puzzles"
        )


def write_page(
    folder: Path, head: ACTLossHead, model: bytes, content: PageContent, runtime: Path | None = None
) -> int:
    """Write the page for an ONNX file of `head` into the folder; returns its size in bytes.

    `runtime` is a local tarball of ONNX Runtime Web, by default that of the npm registry. Raises UserError if it cannot
    be had, or if the folder cannot be written.
    """
    check_family(content.family)
    packed = {
        name: _packed(file)
        for name, file in zip(_RUNTIME_FILES, RUNTIME.read(_RUNTIME_FILES.values(), runtime), strict=True)
    }
    script = content.family.browser_rules().script
    texts = {name: (_SOURCES / name).read_text(encoding="utf-8") for name in STATIC_FILES} | {
        "data.js": f"const page = {_json(page_data(head, content))};\n",
        "family.js": "// The family has no script.\n"
        if script is None
        else script.read_text(encoding="utf-8"),
        "model.js": f"var packedModel = {json.dumps(_packed(model))};\n",
        "runtime.js": f"var runtime = {json.dumps(packed)};\n",
    }
    with writing_into(folder, "page"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    return sum(len(text.encode()) for text in texts.values())


def page_data(head: ACTLossHead, content: PageContent) -> dict[str, Any]:
    """Return the object `page` of data.js: model, family and puzzles, all of it data."""
    family, inner = content.family, head.architecture
    trained, num_parameters = head.act.max_steps, sum(p.numel() for p in head.parameters())
    knows = f"It knows {inner.knows}. " if inner.knows else ""
    named = (family.name or "puzzles").rpartition("@")[2]
    return {
        "title": f"{named[:1].upper()}{named[1:]} {family.describe()}",
        "about": f"A recursive model of {num_parameters:,} parameters solves a puzzle, one supervision step at a time.",
        "facts": f"{type(inner).__name__}, {num_parameters:,} parameters. {knows}{RUNTIME.name} {RUNTIME.version}.",
        "help": (family.text_help or "").replace("`", ""),
        "mostSteps": min(MOST_STEPS, max(64, 4 * trained)),
        "completes": family.completes,
        "model": describe_step(head) | {"blank_identifier": content.blank_identifier},
        "style": style_data(family),
        "rules": family.browser_rules().to_json(),
        "puzzles": [puzzle.to_json() for puzzle in content.puzzles],
        "source": content.source,
    }


def style_data(family: Family) -> dict[str, Any]:
    """Return the family's grid style for the page's JavaScript."""
    style = family.grid_style
    return {
        "rows": style.shape[0],
        "columns": style.shape[1],
        "symbols": list(style.symbols),
        "colours": style.colours.tolist(),
        "cells": style.cells,
        "colouredSymbols": style.coloured_symbols,
        "lines": style.lines,
        "empty": sorted(style.empty_tokens),
        "blend": style.blend,
        "ends": sorted(style.ends),
        "legend": [
            {"token": entry.token, "kind": Kind(entry.kind).name.lower(), "words": entry.words}
            for entry in style.legend
        ],
        "shade": style.shade,
        "frame": list(style.frame[0]),
    }


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _json(value: object) -> str:
    """Return JSON that may stand in a script: without `</script>` and line separators."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
