"""Every family, in every layout it can make, has a report that says what it is; new families are found by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import ssmtool
from ssmtool import plugins
from ssmtool.pipeline.portrait import portrait
from ssmtool.report.overview import view
from ssmtool.report.overview.html import html
from ssmtool.report.overview.markdown import markdown_text

PACKAGE = "ssmtool.families"
CASES = [(name, variant) for name in plugins.names(PACKAGE) for variant in plugins.load(PACKAGE, name).VARIANTS]


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_a_report_of_every_layout(tmp_path, family, variant):
    tensors, config = plugins.load(PACKAGE, family).tiny(variant, 0)
    save_file({name: np.array(x, order="C") for name, x in tensors.items()}, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = portrait(ssmtool.load(tmp_path))
    assert all(row.sizes and row.sizes[-1] == row.bytes for row in found.layers)
    page = view(found)
    assert f"of the {family} family" in page.summary[0]
    text, marked = html(page), markdown_text(page)
    for row in found.layers:
        assert f'<th scope="row">{row.layer.name}</th>' in text or f'class="long">{row.layer.name}</th>' in text
    assert marked.count("\n| ") > 2 * len(found.layers)
