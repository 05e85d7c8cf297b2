"""Whether the output that a page shows is the output that came.

Compared are words and numbers, line by line; how much space lies between them is not. Numbers may differ a little:
other processors round otherwise. Times, and what is computed from them in the same line, may differ at will. A line
"..." in the page stands for any number of lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

TIME = re.compile(r"\d[\d.,]*\s?(?:ns|µs|ms|s|min)(?![\w/])")
NUMBER = re.compile(r"([-−+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)")
MACHINE = re.compile(r"tokens/s|^speed-up")  # lines that are about the machine and nothing else
NOISE = 1e-4  # errors below are rounding, which depends on the order of a sum
GAPS = ("...", "…")


def difference(shown: str, came: str, varies: str = "") -> str | None:
    """The first line of `shown` that is not in `came` where it should be, and what is there; None if all is alike."""
    expected, actual = list(_lines(shown, varies)), list(_lines(came, varies))
    at, free = 0, False
    for line in expected:
        if line.strip() in GAPS:
            free = True
            continue
        while free and at < len(actual) and not alike(line, actual[at]):
            at += 1
        if at >= len(actual):
            return f"the page says\n    {line}\nand there is no such line"
        if not alike(line, actual[at]):
            return f"the page says\n    {line}\nand what came is\n    {actual[at]}"
        at, free = at + 1, False
    if at < len(actual) and not free:
        return f"the page does not show\n    {actual[at]}"
    return None


def _lines(text: str, varies: str) -> Iterator[str]:
    for line in text.split("\n"):
        if line.strip() and not MACHINE.search(line.strip()) and not (varies and re.search(varies, line)):
            yield line.rstrip()


def alike(shown: str, came: str) -> bool:
    """One line against one line."""
    timed = bool(TIME.search(shown)) and bool(TIME.search(came))
    if timed:
        shown, came = TIME.sub("TIME", shown), TIME.sub("TIME", came)
    a, b = NUMBER.split(" ".join(shown.split())), NUMBER.split(" ".join(came.split()))
    if timed and a != b:
        ratio = re.compile(r"[\d.]+×")
        a, b = (NUMBER.split(ratio.sub("RATIO", " ".join(x.split()))) for x in (shown, came))
    if len(a) != len(b):
        return False
    # Odd places hold numbers, even ones what is between them; rules of a table are as wide as the table.
    return all(_near(x, y) if i % 2 else _words(x) == _words(y) for i, (x, y) in enumerate(zip(a, b, strict=True)))


def _words(text: str) -> str:
    return text.replace("▁", "").replace("─", "")


def _near(a: str, b: str) -> bool:
    if a == b:
        return True
    x, y = (float(n.replace(",", "").replace("−", "-")) for n in (a, b))
    if x.is_integer() and y.is_integer() and "." not in a + b and "e" not in a + b:
        return abs(x - y) <= 0.01 * abs(x)
    if 0 < max(abs(x), abs(y)) < NOISE:
        return max(abs(x), abs(y)) <= 20 * min(abs(x), abs(y)) or max(abs(x), abs(y)) < 1e-12
    return abs(x - y) <= 0.05 * max(abs(x), abs(y)) + 1.5 * _last_digit(a)


def _last_digit(number: str) -> float:
    """One in the last place of a decimal number as written: "0.157" -> 0.001."""
    mantissa, _, exponent = number.replace(",", "").replace("−", "-").partition("e")
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
