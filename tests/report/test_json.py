"""JSON text and the documents' shapes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from ssmtool.report import schema
from ssmtool.report.bench_document import BenchDocument
from ssmtool.report.check_document import CheckDocument
from ssmtool.report.config_document import ConfigDocument
from ssmtool.report.diff_document import DiffDocument
from ssmtool.report.identify_document import IdentifyDocument
from ssmtool.report.json_text import json_text
from ssmtool.report.realize_document import RealizeDocument

DOCUMENTS = [
    schema.InspectDocument,
    schema.HsvDocument,
    schema.CompressDocument,
    schema.ValidateDocument,
    schema.SelectiveValidateDocument,
    schema.EvaluateDocument,
    BenchDocument,
    RealizeDocument,
    IdentifyDocument,
    CheckDocument,
    ConfigDocument,
    DiffDocument,
]


class Sample(BaseModel):
    rows: list[list[float]]
    single: float | None
    words: list[str]
    table: dict[str, list[int]]
    empty: dict[str, int] = {}


def test_floats_survive_and_infinities_are_strings():
    rows = [[0.1, 1 / 3, 5e-324, 1.7976931348623157e308], [math.inf, -math.inf, 0.0, -0.0]]
    text = json_text(Sample(rows=rows, single=math.nan, words=['a"b', "σ"], table={"x": [1, 2]}))
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert value["rows"][0] == rows[0]
    assert value["rows"][1] == ["Infinity", "-Infinity", 0.0, -0.0]
    assert value["single"] is None
    assert value["words"] == ['a"b', "σ"]
    assert (value["table"], value["empty"]) == ({"x": [1, 2]}, {})
    assert Sample.model_validate_json(text).rows == rows  # and read back as what they were


def test_rows_of_numbers_stay_on_a_line():
    text = json_text(Sample(rows=[[1.0, 2.0], [3.0]], single=None, words=[], table={}))
    assert "    [1.0, 2.0],\n    [3.0]\n" in text


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_field_is_documented(document):
    page = (Path(__file__).parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`(\w+)`", page))
    models = [document.model_json_schema(), *document.model_json_schema().get("$defs", {}).values()]
    fields = {name for model in models for name in model.get("properties", {})}
    assert fields <= described, fields - described
