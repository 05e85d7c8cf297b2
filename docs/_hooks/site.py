"""What MkDocs does to the pages of docs/: reference pages are generated, tables filled in, notes to the tests removed.

Pages whose text is elsewhere in the repository (CONTRIBUTING.md, CHANGELOG.md, fixtures/README.md) are brought in, and
links to files outside docs/ lead to them where they are pages, and are left as text where they are not.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import command_pages
import tensor_tables
from mkdocs.structure.files import File

TOP = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "fixtures/README.md": "fixtures.md",
}
COMMENT = re.compile(r"^[ \t]*<!--.*?-->\n?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    """Add the pages that are no files in docs/."""
    files.append(File.generated(config, "reference/commands.md", content=command_pages.page()))
    for source, name in ELSEWHERE.items():
        if (TOP / source).is_file():
            files.append(File.generated(config, name, content=(TOP / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown, page, config, files):
    """Fill in tables of tensors; take comments out; point links at pages."""
    here = page.file.src_uri
    if posixpath.dirname(here) == "families":
        markdown = tensor_tables.expand(markdown, posixpath.splitext(posixpath.basename(here))[0])
    markdown = COMMENT.sub("", markdown)
    source = next((s for s, name in ELSEWHERE.items() if name == here), f"docs/{here}")
    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [_relinked(markdown[end : fence.start()], source, here), fence[0]]
        end = fence.end()
    return "".join([*pieces, _relinked(markdown[end:], source, here)])


def _relinked(text: str, source: str, here: str) -> str:
    """Links of a piece of the file `source` as links of the page `here`."""

    def replace(link: re.Match[str]) -> str:
        words, target, anchor = link[1], link[2], link[3] or ""
        if ":" in target:
            return link[0]
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = ELSEWHERE.get(inside) or (inside[len("docs/") :] if inside.startswith("docs/") else None)
        if page is None:
            return words
        return f"[{words}]({posixpath.relpath(page, posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(replace, text)
