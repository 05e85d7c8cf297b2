"""The reading of pages and the comparison of outputs: what they let pass, and what not."""

from __future__ import annotations

import pytest

from tests.docs.alike import difference
from tests.docs.blocks import read, steps

SHOWN = """layer         bound  scan
s4_layers.0  5.6e+00   2.1e-05  473 µs  1.3×

Tensors: 271.4 → 177.2 kB"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("473 µs  1.3×", "1.2 ms 9.9×"),  # times, and ratios of times
        ("2.1e-05", "2.9e-05"),  # rounding
        ("5.6e+00", "5.7e+00"),  # the last digit
        ("layer         bound", "layer bound"),  # width of columns
    ],
)
def test_another_machine_prints_the_same(old: str, new: str) -> None:
    assert difference(SHOWN, SHOWN.replace(old, new)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("5.6e+00", "5.6e-01"),
        ("5.6e+00", "7.1e+00"),
        ("177.2", "217.2"),
        ("s4_layers.0", "s4_layers.1"),
        ("kB", "MB"),
        ("layer  ", "name  "),
        ("Tensors: 271.4 → 177.2 kB", ""),
        ("Tensors", "Wrote x\nTensors"),
    ],
)
def test_another_output_is_noticed(old: str, new: str) -> None:
    assert difference(SHOWN, SHOWN.replace(old, new)) is not None


def test_left_out_lines() -> None:
    assert difference("...\nb 2\n...", "a 1\nb 2\nc 3") is None
    assert difference("b 2\n...", "a 1\nb 2\nc 3") is not None
    assert difference("...\nb 2", "a 1\nb 2\nc 3") is not None
    assert difference("...\nd 4", "a 1\nb 2\nc 3") is not None
    assert difference("a 1\nchosen x", "a 1\nchosen y", varies="^chosen") is None


PAGE = """
    ssmtool hsv MODEL [--plot FILE]
                [--json]

Text with `ssmtool inspect model` in it, and a list:

- item

    its second paragraph

<!-- exit: 2 -->
```console
$ ssmtool hsv \\
    gone
ssmtool: error

$ ssmtool bench --list
```

<!-- before:
x = 1
-->
```python
print(x)
```
"""


def test_what_a_reader_could_type_is_found() -> None:
    found = list(read("page.md", PAGE))
    assert [block.kind for block in found] == ["console", "span", "console", "python"]
    synopsis, span, console, python = found
    assert [step.line for step in steps(synopsis)] == ["ssmtool hsv MODEL [--plot FILE] [--json]"]
    assert (span.text, span.line) == ("ssmtool inspect model", 5)
    assert [(step.line, step.shown) for step in steps(console)] == [
        ("ssmtool hsv gone", "ssmtool: error"),
        ("ssmtool bench --list", None),
    ]
    assert console.marks == {"exit": "2"}
    assert (python.marks["before"], python.text) == ("x = 1", "print(x)")
