"""Pictures: they exist, are what they say, and come out the same every time."""

from __future__ import annotations

import warnings
import xml.etree.ElementTree as xml
from dataclasses import replace

import numpy as np
import pytest

from ssmtool.errors import OutputError
from ssmtool.lti.hankel import Spectrum
from ssmtool.report.curves import curves
from ssmtool.report.plot import FLOOR, draw, save_plot


def test_curves_are_quantiles_of_relative_values(spectra):
    entry = spectra(1, 5, 8)[0]
    found = curves(entry)
    relative = entry.spectrum.sigma / entry.spectrum.sigma[:, :1]
    np.testing.assert_allclose(found.sigma.median, np.median(relative, axis=0))
    np.testing.assert_allclose(found.sigma.quantiles[[0, -1]], [relative.min(axis=0), relative.max(axis=0)])
    np.testing.assert_allclose(found.bound.quantiles[-1, 0], 2 * relative.sum(axis=1).max())
    assert found.bound.x.tolist() == list(range(8))
    assert found.remarks == ()


def test_curves_leave_out_what_a_logarithmic_axis_cannot_show(spectra):
    found = curves(spectra(1, 1, 8, redundant=2, unstable=3)[0])
    assert np.isnan(found.sigma.median).tolist() == [True] * 3 + [False] * 3 + [True] * 2
    assert np.isnan(found.bound.median).tolist() == [True] * 3 + [False] * 3 + [True] * 2
    assert found.sigma.median[3] == 1.0  # the largest finite one is the unit
    assert found.remarks == ("3 with σ = ∞", "2 with σ = 0 not drawn")


@pytest.mark.parametrize(("layers", "systems", "redundant", "unstable"), [(5, 4, 2, 1), (48, 3, 1, 2)])
def test_pictures_of_few_and_many_layers_draw_without_a_warning(
    spectra, tmp_path, layers, systems, redundant, unstable
):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_plot(spectra(layers, systems, 10, redundant, unstable), tmp_path / "hsv.svg", title="model")
    root = xml.parse(tmp_path / "hsv.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_spectra_without_anything_to_draw(spectra):
    entry = spectra(1, 2, 4)[0]
    zero = replace(entry, spectrum=Spectrum(np.zeros((2, 4)), np.full(2, 4), np.zeros(2, int)))
    infinite = replace(entry, spectrum=Spectrum(np.full((2, 4), np.inf), np.zeros(2, int), np.full(2, 4)))
    texts = [text.get_text() for axis in draw([zero, infinite]).axes for text in axis.texts]
    assert "8 with σ = 0 not drawn" in texts
    assert "8 with σ = ∞ not drawn" in texts


@pytest.mark.parametrize("suffix", [".svg", ".pdf"])
def test_the_same_spectra_give_the_same_bytes(spectra, tmp_path, suffix):
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    for path in (first, second):
        save_plot(spectra(1, 3, 6), path, title="model")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"<?xml" if suffix == ".svg" else b"%PDF-")
    assert b"<dc:date>" not in first.read_bytes()


def test_axes_end_at_the_floor(spectra):
    entry = spectra(1, 2, 200)[0]
    assert entry.spectrum.sigma.min() < FLOOR
    axes = draw([entry]).axes
    assert all(axis.get_ylim()[0] == FLOOR for axis in axes)
    assert [axis.get_xlabel() for axis in axes] == ["state, k", "states kept, r"]


def test_a_few_tiny_values_do_not_stretch_the_axes(spectra):
    entry = spectra(1, 50, 6)[0]
    entry.spectrum.sigma[0, -1] = 1e-18
    assert draw([entry]).axes[0].get_ylim()[0] > 1e-6


def test_a_picture_that_cannot_be_written_is_an_error(spectra, tmp_path):
    with pytest.raises(OutputError, match="none"):
        save_plot(spectra(1, 1, 4), tmp_path / "none" / "hsv.svg")
