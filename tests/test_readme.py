"""The README is short, and its tables agree with the repository."""

from __future__ import annotations

import re

from pages import ROOT, page, plain

README = page("README.md")


def test_it_is_short_and_has_no_tables_of_keys():
    assert len(README.text.splitlines()) <= 200
    assert [column for table in README.tables() for column in table[0] if column in ("key", "option")] == []


def test_its_pictures_exist_and_are_small():
    pictures = [link for link in README.links() if link.endswith((".gif", ".png", ".svg"))]
    assert {path.rpartition(".")[2] for path in pictures} == {"gif", "png", "svg"}
    assert all((ROOT / path).stat().st_size < 300_000 for path in pictures)


def test_the_recipes_that_it_names_exist():
    named = set(re.findall(r"\+experiment=(\w+)", README.text))
    named |= {plain(row["model"]) for row in README.table("Results")} & {"sudoku6x6", "nqueens8"}
    assert len(named) >= 6
    assert named <= {path.stem for path in (ROOT / "config" / "experiment").glob("*.yaml")}


def test_every_score_of_ours_is_in_the_results():
    results = page("RESULTS.md").text
    ours = [row for row in README.table("Results") if "here" in row["model"]]
    assert len(ours) >= 4
    for row in ours:
        for score in re.findall(r"\d+\.\d", row["solved, %"]):
            assert score in results, row


def test_every_guide_is_one_click_away():
    guides = {f"docs/guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md")}
    assert guides <= {link.partition("#")[0] for link in README.links()}
