"""Lines of values in TOML: every value tomllib reads is found on a line that has its key."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmtool.checks.toml_lines import line_of, lines

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

TEXT = '''# a comment with [brackets] and key = 1
title = "first"
[tool.ssmtool.check]
layers = [
  "a.[0-3]", # ]
  "b = 1",
]
note = """
[not.a.table]
key = 1
""" # the end
"quoted.key" = {energy = 0.99}

[[tool.ssmtool.check.rules.order]]
energy = 0.99
max.deep = 1
[[tool.ssmtool.check.rules.order]]
error = 1e-2
[tool.ssmtool.check.rules.order.inner]
x = \'\'\'a
y = 2\'\'\'
y = 3
'''


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("title",), 2),
        (("tool", "ssmtool", "check"), 3),
        (("tool", "ssmtool", "check", "layers"), 4),
        (("tool", "ssmtool", "check", "layers", 1), 4),
        (("tool", "ssmtool", "check", "note"), 8),
        (("tool", "ssmtool", "check", "quoted.key", "energy"), 12),
        (("tool", "ssmtool", "check", "rules", "order", 0, "energy"), 15),
        (("tool", "ssmtool", "check", "rules", "order", 0, "max", "deep"), 16),
        (("tool", "ssmtool", "check", "rules", "order", 1), 17),
        (("tool", "ssmtool", "check", "rules", "order", 1, "error"), 18),
        (("tool", "ssmtool", "check", "rules", "order", 1, "inner", "y"), 22),
        (("nowhere",), 1),
    ],
)
def test_places(place, line):
    tomllib.loads(TEXT)
    assert line_of(lines(TEXT), place) == line
    assert line_of(lines(TEXT.replace("\n", "\r\n")), place) == line


NAMES = st.sampled_from(["a", "b-1", "_c", '"d.e"', '"[f]"', "'g = 1'", '"\\"h"', "'#i'"])
VALUES = st.sampled_from(
    [
        "1", '"x"', '"a # b"', '"\\\\"', "'[['", "[]",
        '[\n  1, # ]\n  2,\n]', '"""\nk = 1\n[t]\n"""', "'''\n\"\"\"\n'''",
        '{a = 1, "b" = [2]}', '""""quoted""""', "[[1], [\n2]]", "1979-05-27T07:32:00Z", '"""a\\"""b"""', "'''''x'''",
    ]
)  # fmt: skip
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=4, unique_by=lambda pair: pair[0])


@given(st.lists(st.tuples(NAMES, st.booleans(), PAIRS), max_size=5))
def test_every_key_is_on_its_line(tables):
    """Keys are numbered by the line they were written on, the value beside them says it."""
    rows: list[str] = []
    seen: dict[str, bool] = {}
    expected = []
    counts: dict[str, int] = {}
    for name, array, pairs in tables:
        if name in seen and not (array and seen[name]):
            continue
        seen[name] = array
        rows.append(f"[[{name}]]" if array else f"[ {name} ]")
        counts[name] = counts.get(name, -1) + 1
        place = (_plain(name), counts[name]) if array else (_plain(name),)
        expected.append((place, len(rows)))
        for key, value in pairs:
            rows += f"  {key} = {value} # {key}".split("\n")
            expected.append(((*place, _plain(key)), len(rows) - value.count("\n")))
    text = "\n".join(rows)
    tomllib.loads(text)
    found = lines(text)
    assert {place: found.get(place) for place, _ in expected} == dict(expected)


def _plain(name: str) -> str:
    return next(iter(tomllib.loads(f"{name} = 0")))
