"""The workflow, templates and contributing guide refer to existing targets and files."""

from __future__ import annotations

import re

import pytest
import versions
import yaml
from pages import ROOT, all_pages

YAML_FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *(ROOT / ".github").rglob("*.yml"),
        ROOT / ".pre-commit-config.yaml",
        ROOT / "CITATION.cff",
    )
)
_TARGET = r"(?<![\w/-])make ((?:[a-z-]+ ?)+)(?=$|[`;&,]|\s+(?:#|[A-Z]+=))"


def targets_of(text: str) -> set[str]:
    return {name for match in re.finditer(_TARGET, text, re.MULTILINE) for name in match[1].split()}


def test_every_make_target_that_is_named_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (".ci/run", ".github/workflows/ci.yml"):
        named = targets_of((ROOT / path).read_text().replace("run: ", "run:\n"))
        assert {"lint", "types", "test", "docs-check"} <= named <= targets, path
    for page in all_pages():
        code = "\n".join([*page.blocks("bash"), *re.findall(r"`(make [^`]+)`", page.text)])
        assert targets_of(code) <= targets, page.name


@pytest.mark.parametrize("name", YAML_FILES)
def test_files_for_other_programs_are_yaml(name):
    assert isinstance(yaml.safe_load((ROOT / name).read_text()), dict)


def test_the_lowest_versions_are_those_that_the_ranges_begin_with():
    ranges = "".join((ROOT / f"requirements{name}.txt").read_text() for name in ("", "-min", "-onnx"))
    pins = versions.lowest()
    assert len(pins) >= 15
    assert "-r requirements-min.txt" in ranges
    assert all(pin.replace("==", ">=") in ranges for pin in pins)
    assert versions.newest() == []


def test_the_citation_has_the_version_of_the_changelog():
    released = re.findall(r"^## \[(\d[^\]]*)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version, date = released[0] if released else (None, None)
    assert citation.get("version") == version
    assert (None if "date-released" not in citation else str(citation["date-released"])) == date


def test_the_changelog_begins_with_what_is_not_released():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
