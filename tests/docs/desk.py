"""A place to run the commands of the pages: one folder for the session, commands inside this process, each once.

Every page has a folder of its own, in which `fixtures/` is a copy of the repository's, shared by all pages like `demo/`
and `runs/`. A file that a command needs and that is not there is made: by the command that writes it in some page, or
as a stand-in for a file of the reader's (standins.py). So every block runs on its own, in any order.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssmtool.cli.run import run
from tests.docs.blocks import TOP, Block, blocks, pages, steps
from tests.docs.standins import STANDINS

SHARED = ("fixtures", "demo", "runs")
OUTPUTS = ("-o", "--output", "--plot", "--csv")


class Desk:
    """Runs command lines for pages.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.done: dict[tuple[str, ...], tuple[int, str]] = {}
        self.makers = dict(_makers())
        self.names: dict[str, dict[str, object]] = {}
        shutil.copytree(TOP / "fixtures", root / "fixtures", ignore=shutil.ignore_patterns("__pycache__"))
        for name in SHARED[1:]:
            (root / name).mkdir()

    def folder(self, page: str) -> Path:
        """Where a page's commands run."""
        place = self.root / "pages" / re.sub(r"\W", "-", page)
        if not place.exists():
            place.mkdir(parents=True)
            for name in SHARED:
                (place / name).symlink_to(self.root / name)
            for block in blocks(page):
                if block.kind == "text" and "file" in block.marks:
                    (place / block.marks["file"]).write_text(block.text + "\n", encoding="utf-8")
        return place

    def run(self, page: str, line: str) -> tuple[int, str]:
        """Exit code and everything printed by a command line that starts with "ssmtool"."""
        args = shlex.split(line, comments=True)[1:]
        args, target = (args[:-2], args[-1]) if args[-2:-1] == [">"] else (args, "")
        paths = [arg for arg in args if _is_path(arg)]
        shared = all(arg.split("/")[0] in SHARED for arg in paths)
        key = (*args,) if shared else (page, *args)
        if key not in self.done:
            outputs = {args[i + 1] for i, arg in enumerate(args[:-1]) if arg in OUTPUTS}
            for arg in args:
                if not arg.startswith("-") and arg not in outputs:
                    self.provide(page, arg.partition(":")[0])
            if "--resume" not in args:
                for path in outputs:
                    _remove(self.folder(page) / path)
            self.done[key] = self._invoke(page, args, target)
        return self.done[key]

    def provide(self, page: str, name: str) -> None:
        """Make a file that is not there, if it is known how."""
        place = self.folder(page)
        if (place / name).exists():
            return
        for made, (where, line) in self.makers.items():
            if (name == made or name.startswith(made + "/")) and made.split("/")[0] in SHARED:
                self.run(where, line)
                return
        make = STANDINS.get((page, name))
        if make is None and page not in self.names and any(name in _written(block) for block in _python(page)):
            self.python(page)
            return
        make = make or STANDINS.get(name)
        if make is None and "/" not in name:  # a page that runs its commands inside fixtures/ or demo/
            for folder in SHARED[:2]:
                if f"{folder}/{name}" in self.makers:
                    self.provide(page, f"{folder}/{name}")
                if (self.root / folder / name).exists():
                    (place / name).symlink_to(self.root / folder / name)
                    return
        if make is not None:
            with at(place):
                make(Path(name), lambda needed: self.provide(page, needed))

    def python(self, page: str) -> None:
        """Run the Python blocks of a page, once and one after the other, each seeing the names before it."""
        if page in self.names:
            return
        names = self.names[page] = {"__name__": "page"}
        for block in _python(page):
            before = block.marks.get("before", "")
            written = _written(block)
            for name in written - {""}:
                _remove(self.folder(page) / name)
            for name in set(re.findall(r'"([\w./-]+)"', before + block.text)) - written:
                self.provide(page, name)
            with at(self.folder(page)), contextlib.redirect_stdout(io.StringIO()):
                if "file" in block.marks:
                    Path(block.marks["file"]).write_text(block.text, encoding="utf-8")
                for part, first in ((before, 1), (block.text, block.line)):
                    exec(compile("\n" * (first - 1) + part, str(TOP / page), "exec"), names)

    def _invoke(self, page: str, args: Sequence[str], target: str) -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        # On a terminal both arrive in one place, unless standard output goes to a file.
        with at(self.folder(page)), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err if target else out):
            code = run(args)
            if target:
                Path(target).write_text(out.getvalue(), encoding="utf-8")
        return code, (err if target else out).getvalue()


@contextlib.contextmanager
def at(place: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(place)
    try:
        yield
    finally:
        os.chdir(before)


def _makers() -> Iterator[tuple[str, tuple[str, str]]]:
    """(output, (page, command line)) of every command in the pages that says where it writes."""
    for page in reversed(pages()):  # of several, the first page's
        for block in blocks(page):
            if block.kind != "console" or "skip" in block.marks:
                continue
            for step in steps(block):
                if step.line.startswith("ssmtool") and "[" not in step.line:
                    args = shlex.split(step.line, comments=True)
                    named = [args[i + 1] for i, arg in enumerate(args[:-1]) if arg in OUTPUTS[:2]]
                    named += [arg.partition(":")[2] for arg in args if arg.startswith(("json:", "junit:"))]
                    yield from ((name, (page, step.line)) for name in named)


def _python(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.kind == "python" and "skip" not in block.marks]


def _written(block: Block) -> set[str]:
    """Names of files that a Python block writes: what is saved or compressed to, not what is loaded on the way."""
    text = re.sub(r'load\w*\("[^"]*"', "", block.marks.get("before", "") + "\n" + block.text)
    calls = re.findall(r"(?:save|compress)\w*\(.*", text)
    return {*re.findall(r'(?<!=)"([\w./-]+)"', "\n".join(calls)), block.marks.get("file", "")}


def _is_path(arg: str) -> bool:
    return "/" in arg or Path(arg).suffix in {".safetensors", ".npy", ".txt", ".py", ".svg", ".csv", ".json", ".toml"}


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
