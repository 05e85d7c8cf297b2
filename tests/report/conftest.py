"""Spectra made up for reports: no checkpoint, no mathematics."""

from __future__ import annotations

import numpy as np
import pytest

from ssmtool.families._contract import Layer
from ssmtool.lti.hankel import Spectrum
from ssmtool.pipeline.model import LayerSpectrum


@pytest.fixture
def spectra():
    """spectra(layers, systems, order, redundant=0, unstable=0): geometric decay, a little faster in every layer."""

    def make(layers: int, systems: int, order: int, redundant: int = 0, unstable: int = 0) -> list[LayerSpectrum]:
        rng, made = np.random.default_rng(0), []
        for i in range(layers):
            noise = rng.normal(0, 0.5, (systems, order))
            sigma = np.sort(np.exp(noise - 0.5 * (1 + i / layers) * np.arange(order)), axis=1)[:, ::-1].copy()
            sigma[:, order - redundant :] = 0.0
            sigma[0, :unstable] = np.inf
            counts = np.array([unstable] + [0] * (systems - 1))
            layer = Layer(f"layers.{i}", "s4d", "s4d", {}, systems, 1, 1, order // 2, order)
            made.append(LayerSpectrum(layer, Spectrum(sigma, np.full(systems, redundant), counts)))
        return made

    return make
