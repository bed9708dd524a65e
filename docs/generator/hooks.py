"""MkDocs hooks that add the files outside docs/ that a page links to as pages of the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
_ADDED = "repository"  # folder of the added pages on the site
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".hpp": "cpp", ".cpp": "cpp", ".sh": "bash"}


def on_files(files: Any, config: Any) -> Any:
    """Add the files that pages link to, and the pictures of linked Markdown files."""
    linked = {
        path for file in files.documentation_pages() for path in _links(file.content_string, file.src_uri)
    }
    for path in [path for path in linked if path.endswith(".md") and (ROOT / path).is_file()]:
        linked |= {
            each for each in _links((ROOT / path).read_text("utf-8"), page_of(path)) if _is_picture(each)
        }
    for path in sorted(linked):
        if path.startswith("docs/") or not (ROOT / path).is_file():
            continue
        if _is_picture(path):
            files.append(File.generated(config, page_of(path), abs_src_path=str(ROOT / path)))
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        if not path.endswith(".md"):
            text = f"# `{path}`\n\n````{_LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n````\n"
        files.append(File.generated(config, page_of(path), content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Redirect links to the added pages; on an added page, replace links to files not on the site by their text."""
    uri = page.file.src_uri

    def pointed(match: re.Match[str]) -> str:
        picture, text, path, anchor = match.groups()
        target = page_of(_in_repository(path, uri))
        if target in files.src_uris:
            return f"{picture}[{text}]({posixpath.relpath(target, posixpath.dirname(uri))}{anchor or ''})"
        return text if uri.startswith(_ADDED) else match[0]

    return _LINK.sub(pointed, markdown)


def page_of(path: str) -> str:
    """Return the path on the site of a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{_ADDED}/{path}" if path.endswith(".md") or _is_picture(path) else f"{_ADDED}/{path}.md"


def _links(text: str, uri: str) -> set[str]:
    return {_in_repository(match[3], uri) for match in _LINK.finditer(text)}


def _in_repository(link: str, uri: str) -> str:
    """Resolve a link on a page of the site to a path relative to the root of the repository."""
    folder = posixpath.dirname(uri)
    folder = folder.removeprefix(_ADDED).lstrip("/") if uri.startswith(_ADDED) else f"docs/{folder}"
    return posixpath.normpath(posixpath.join(folder, link))


def _is_picture(path: str) -> bool:
    return path.endswith((".png", ".gif", ".svg"))
