"""Update every generated page that is out of date: `python -m docs.generator`."""

from __future__ import annotations

from pathlib import Path

from docs.generator.commands import commands_page
from docs.generator.excerpts import with_excerpts
from docs.generator.keys import config_page
from docs.generator.layout import layout_page
from docs.generator.markdown import ROOT
from docs.generator.recipes import recipes_page


def rendered() -> dict[Path, str]:
    """Render every page that is generated or contains excerpts."""
    reference = ROOT / "docs" / "reference"
    pages = {
        reference / "config.md": config_page(),
        reference / "commands.md": commands_page(),
        reference / "recipes.md": recipes_page(),
        reference / "layout.md": layout_page(),
    }
    for path in sorted((ROOT / "docs" / "concepts").glob("*.md")):
        pages[path] = with_excerpts(path.read_text(encoding="utf-8"))
    return pages


def main() -> None:
    for path, text in rendered().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
