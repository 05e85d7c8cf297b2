"""A layer run on several inputs: outputs against sums over the impulse response, which is computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DenseSystem, System
from ssmtool.pipeline import scans
from ssmtool.pipeline.scans import LayerRun
from tests.lti.samples import dense, mixed, real_stored, ring

SYSTEMS: dict[str, System] = {
    "SISO": ring(5, 4),
    "MIMO with a kernel": mixed(3, 6, 2, 3),
    "MIMO without": ring(2, 3, 4, 5),
    "real": real_stored(3, 4),
    "dense": dense(3, 5, 2, 2),
}
STEPS = 40


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("batch", [1, 2, 100])
def test_outputs_are_sums_over_the_impulse_response(name, batch, monkeypatch):
    system = SYSTEMS[name]
    width = system.order if isinstance(system, DenseSystem) else system.slots
    monkeypatch.setattr(scans, "_SCAN_BYTES", batch * STEPS * width * 16)
    run = LayerRun(system, STEPS, torch.device("cpu"), "naive")
    assert len(run.pieces) == -(-system.systems // batch)
    h, rng = impulse_response(system, STEPS), np.random.default_rng(0)
    for _ in range(3):
        u = rng.standard_normal((system.systems, STEPS, system.inputs))
        y, rounding, (scan, convolution), seconds = run(u, timed=False)
        sums = [np.einsum("spmk,skm->sp", h[..., : t + 1], u[:, t::-1]) for t in range(STEPS)]
        expected = np.stack(sums, axis=1)
        size = np.linalg.norm(expected, axis=(1, 2))
        error = np.linalg.norm(y - expected, axis=(1, 2))
        # float32 parameters and sums over 40 steps
        assert (error <= 1e-5 * size).all()
        np.testing.assert_allclose(rounding, error, rtol=1e-6, atol=1e-12 * size.max())
        assert scan == pytest.approx((error / size).max(), rel=1e-6)
        assert 0 < convolution < 1e-5
        assert seconds == 0


@pytest.mark.parametrize(("name", "kernels"), [("SISO", 1), ("MIMO without", 0), ("dense", 1)])
def test_kernels_are_computed_once_for_all_inputs(name, kernels, monkeypatch):
    system, made = SYSTEMS[name], []
    monkeypatch.setattr(scans, "impulse_response", lambda *args: made.append(1) or impulse_response(*args))
    run = LayerRun(system, STEPS, torch.device("cpu"), "naive")
    for _ in range(3):
        run(np.ones((system.systems, STEPS, system.inputs)), timed=True)
    assert len(made) == kernels
