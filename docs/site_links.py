"""A hook of MkDocs: what pages link to outside docs/ becomes a page too, so that no link is lost.

Sources are shown as they are, under source/; a link to a folder becomes plain text. The links work
in the repository as they stand, and are rewritten for the site alone.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

LINK = re.compile(r"(?<!!)\[([^\]\[]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".md": "markdown"}
SHOWN = """\
---
search:
  exclude: true
hide: [toc]
---

# {path}

`````{language}
{text}
`````
"""

_generated: set[str] = set()


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every file outside docs/ that a page links to, or one of these does."""
    repository = Path(config.config_file_path).parent
    pages = files.documentation_pages()
    waiting = [(f"docs/{page.src_uri}", page.content_string) for page in pages]
    _generated.clear()
    while waiting:
        place, text = waiting.pop()
        for _, link, _ in LINK.findall(text):
            target = _target(place, link)
            uri = _page_uri(target)
            path = repository / target
            if target.startswith("docs/") or uri in _generated or not path.is_file():
                continue
            _generated.add(uri)
            content = path.read_text(encoding="utf-8")
            if path.suffix == ".md":
                waiting.append((target, content))
                content = _rewritten(content, target, uri, repository)
            else:
                language = LANGUAGES.get(path.suffix, "text")
                content = SHOWN.format(path=target, language=language, text=content)
            files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point the links of a page that lead out of docs/ to the pages made above."""
    uri = page.file.src_uri
    if uri in _generated:
        return markdown
    repository = Path(config.config_file_path).parent
    return _rewritten(markdown, f"docs/{uri}", uri, repository)


def _target(place: str, link: str) -> str:
    """What a link in the file `place` leads to, relative to the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), link))


def _page_uri(target: str) -> str:
    """Where in the site that is."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"source/{target}" if target.endswith(".md") else f"source/{target}.md"


def _rewritten(text: str, place: str, uri: str, repository: Path) -> str:
    def changed(match: re.Match[str]) -> str:
        words, link, anchor = match.groups()
        target = _target(place, link)
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        if (repository / target).is_dir():
            return words
        relative = os.path.relpath(_page_uri(target), posixpath.dirname(uri) or ".")
        return f"[{words}]({relative}{anchor or ''})"

    return LINK.sub(changed, text)
