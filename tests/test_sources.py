"""The version of a computation: any change of its sources is another one."""

from __future__ import annotations

import sys

import pytest

from ssmtool.sources import version_of


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "some_mathematics"
    (folder / "deeper").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "deeper" / "kernel.c").write_text("int one;")
    monkeypatch.syspath_prepend(str(tmp_path))

    def version():
        version_of.cache_clear()
        return version_of("some_mathematics")

    yield folder, version
    version_of.cache_clear()


def test_any_change_of_a_source_is_another_version(package):
    folder, version = package
    seen = {version()}
    for change in (
        lambda: (folder / "__init__.py").write_text("x = 1"),
        lambda: (folder / "deeper" / "kernel.c").write_text("int two;"),
        lambda: (folder / "new.py").write_text("x = 1"),
        lambda: (folder / "new.py").rename(folder / "other.py"),
        lambda: (folder / "other.py").unlink() or (folder / "__init__.py").write_text(""),
    ):
        change()
        assert version() not in seen
        seen.add(version())


def test_what_is_no_source_does_not_count(package):
    folder, version = package
    before = version()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "new.cpython-311.pyc").write_text("")
    (folder / "notes.md").write_text("")
    assert version() == before


def test_libraries_count_and_are_not_imported(package):
    loaded = set(sys.modules)
    assert "torch" in package[1]()
    assert "some_mathematics" not in set(sys.modules) - loaded
