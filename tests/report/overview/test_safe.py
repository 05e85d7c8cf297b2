"""Data of a page's script: text from checkpoints does not end it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ssmtool.report.overview.safe import script_json

text = st.text(alphabet=st.characters(), max_size=40)


@given(text)
def test_json_in_a_script_reads_back_and_cannot_end_it(value):
    found = script_json({"name": value})
    assert json.loads(found) == {"name": value}
    assert not set(found) & set("<>&\u2028\u2029")
    assert found.isascii()


def test_numbers_that_json_does_not_know_become_null():
    assert (
        script_json([float("nan"), float("inf"), -float("inf"), 1.5, {"a": (1, None)}])
        == '[null,null,null,1.5,{"a":[1,null]}]'
    )
