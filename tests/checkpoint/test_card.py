"""The section in a model card."""

from __future__ import annotations

import pytest

from ssmtool.checkpoint.card import with_section


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("", "## New\n\nx\n"),
        ("# T", "# T\n\n## New\n\nx\n"),
        ("# T\n\n## New\n\nold\n", "# T\n\n## New\n\nx\n"),
        ("# T\n## New\nold\n### Sub\nold\n## Next\nkept\n", "# T\n## New\n\nx\n\n## Next\nkept\n"),
        ("# T\n## New\nold\n# Part\nkept", "# T\n## New\n\nx\n\n# Part\nkept"),
        ("# T\n```\n## New\n```\n", "# T\n```\n## New\n```\n\n## New\n\nx\n"),
        ("# T\n## New\n~~~\n## no heading\n```\n~~~\n## Next\n", "# T\n## New\n\nx\n\n## Next\n"),
        ("# T\r\n", "# T\r\n\r\n## New\r\n\r\nx\r\n"),
    ],
)
def test_section(card: str, expected: str) -> None:
    assert with_section(card, "## New\n\nx\n") == expected
    assert with_section(expected, "## New\n\nx") == expected
