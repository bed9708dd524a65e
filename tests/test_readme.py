"""The README is short, and its tables agree with the repository."""

from __future__ import annotations

import re

import pytest
from pages import ROOT, page, plain

from config.recipe_headers import read_headers

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


@pytest.mark.parametrize(
    "card", sorted((ROOT / "pretrained").glob("*/README.md")), ids=lambda card: card.parent.name
)
def test_every_score_of_a_model_card_is_in_the_results(card):
    text = page(str(card.relative_to(ROOT))).without_code
    scores = re.findall(r"(\d+\.\d)%\s\((\d+\.\d)\sto\s(\d+\.\d)\)", text)
    assert len(scores) >= 2
    # A table has the ends of the interval in a column of their own.
    results = page("RESULTS.md").text
    missing = [
        score for score, low, high in scores if score not in results or f"{low} to {high}" not in results
    ]
    assert missing == []


def rows_about(recipe: str) -> str:
    """Return the rows of RESULTS.md that name a recipe, each with the rows below that continue it."""
    found, continues = [], False
    for line in page("RESULTS.md").text.splitlines():
        continues = line.startswith("|") and (
            re.search(rf"\b{recipe}\b", line) is not None
            or (continues and line.startswith(("| |", "| the ")))
        )
        found += [line] if continues else []
    return "\n".join(found)


def test_every_score_of_a_recipe_is_published_or_in_its_rows_of_the_results():
    said = {header.name: header.text("Score") for header in read_headers()}
    ours = {name: text for name, text in said.items() if "%" in text and not text.startswith("published")}
    assert len(ours) >= 9
    for name, text in ours.items():
        scores = re.findall(r"\d+\.\d", text)
        assert scores, text
        assert [score for score in scores if score not in rows_about(name)] == [], text


def test_every_guide_is_one_click_away():
    guides = {f"docs/guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md")}
    assert guides <= {link.partition("#")[0] for link in README.links()}
