"""Hankel singular values and balanced truncation: ssmtool, SLICOT, pyMOR and SciPy on the same systems in one run.

Two sizes: 1,024 single-input single-output systems of order 64 (S4D-like layers), and one system of order 1,024 with
512 inputs and outputs (an S5-like layer). Peers (the extra `bench`) get the real state space; times are wall time, best
of several runs.
"""

from __future__ import annotations

import time
from importlib import import_module

import numpy as np
import scipy.linalg

from ssmtool.lti.hankel import balance, hankel_singular_values
from ssmtool.lti.norms import to_dense
from ssmtool.lti.systems import DiagonalSystem


def siso_layer(systems: int = 1024, slots: int = 32, seed: int = 0) -> DiagonalSystem:
    """S4D-Lin poles moved as training moves them: random steps in [1e-3, 1e-1], perturbed decay and frequency."""
    rng = np.random.default_rng(seed)
    dt = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (systems, 1)))
    shape = (systems, slots)
    poles = -0.5 * np.exp(0.3 * rng.standard_normal(shape)) + 1j * np.pi * (
        np.arange(slots) + 0.1 * rng.standard_normal(shape)
    )
    a = dt * poles
    C = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * np.expm1(a) / poles
    return DiagonalSystem(a, np.ones((*shape, 1), dtype=complex), C[:, None], np.zeros((systems, 1, 1)))


def mimo_layer(slots: int = 512, channels: int = 512, seed: int = 0) -> DiagonalSystem:
    """An S5-like layer: poles on decaying rings, dense complex B and C."""
    rng = np.random.default_rng(seed)
    a = -np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), (1, slots))) + 1j * rng.uniform(0.01, 3.1, (1, slots))

    def gaussian(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(channels)

    B, C = gaussian(1, slots, channels), gaussian(1, channels, slots)
    return DiagonalSystem(a, B, C, np.zeros((1, channels, channels)))


def best(run, repeats: int = 3) -> float:
    """Least wall time of `repeats` runs, seconds."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def slicot(A, B, C, order: int):
    """SLICOT AB09AD: Hankel singular values and a balanced truncation of one dense system."""
    return import_module("slycot").ab09ad(
        "D", "B", "N", A.shape[0], B.shape[1], C.shape[0], A.copy(), B.copy(), C.copy(), nr=order
    )


def scipy_values(A, B, C) -> np.ndarray:
    """sqrt(eig(P Q)) from SciPy's Lyapunov solver."""
    P = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    Q = scipy.linalg.solve_discrete_lyapunov(A.T, C.T @ C)
    return np.sqrt(np.abs(np.linalg.eigvals(P @ Q)))


def pymor_values(A, B, C) -> np.ndarray:
    """pyMOR's Hankel singular values of a discrete-time LTI model."""
    import_module("pymor.core.logger").set_log_levels({"pymor": "ERROR"})
    return import_module("pymor.models.iosys").LTIModel.from_matrices(A, B, C, sampling_time=1).hsv()


def row(name: str, ours: float, theirs: float, unit: str, scale: float, target: float | None) -> str:
    ratio = theirs / ours
    verdict = "" if target is None else f"  target {target:g}x: {'met' if ratio >= target else 'MISSED'}"
    return f"  {name:34s} {theirs * scale:10.3f} {unit}   ssmtool is {ratio:7.1f}x faster{verdict}"


def run() -> None:
    layer = siso_layer()
    hankel_singular_values(layer)  # warm-up
    sample = 24
    dense = to_dense(DiagonalSystem(layer.a[:sample], layer.B[:sample], layer.C[:sample], layer.D[:sample]))
    systems = list(zip(dense.A, dense.B, dense.C, strict=True))
    ours = best(lambda: hankel_singular_values(layer), 5) / layer.systems
    ours_reduced = best(lambda: balance(layer, 16), 5) / layer.systems
    theirs = best(lambda: [slicot(*s, 16) for s in systems], 5) / sample
    print(f"order 64, {layer.systems} systems, one input, one output; ms per system")
    print(f"  ssmtool, values                    {ours * 1e3:10.3f} ms")
    print(f"  ssmtool, values and order 16       {ours_reduced * 1e3:10.3f} ms")
    print(row("SLICOT AB09AD, against values", ours, theirs, "ms", 1e3, 8))
    print(row("SLICOT AB09AD, values + order 16", ours_reduced, theirs, "ms", 1e3, 8))
    print(
        row("SciPy Lyapunov + eig", ours, best(lambda: [scipy_values(*s) for s in systems]) / sample, "ms", 1e3, None)
    )
    few = systems[:4]
    print(row("pyMOR", ours, best(lambda: [pymor_values(*s) for s in few]) / len(few), "ms", 1e3, None))

    layer = mimo_layer()
    dense = to_dense(layer)
    system = (dense.A[0], dense.B[0], dense.C[0])
    ours = best(lambda: hankel_singular_values(layer), 2)
    ours_reduced = best(lambda: balance(layer, 64), 1)
    theirs = best(lambda: slicot(*system, 64), 1)
    print("order 1,024, 512 inputs and outputs; seconds")
    print(f"  ssmtool, values                    {ours:10.3f} s")
    print(f"  ssmtool, values and order 64       {ours_reduced:10.3f} s")
    print(row("SLICOT AB09AD, against values", ours, theirs, "s ", 1, 4))
    print(row("SLICOT AB09AD, values + order 64", ours_reduced, theirs, "s ", 1, 4))
    print(row("SciPy Lyapunov + eig", ours, best(lambda: scipy_values(*system), 1), "s ", 1, None))
    reference = slicot(*system, 64)[4]
    values = hankel_singular_values(layer).sigma[0]
    print(f"  agreement with SLICOT, relative to sigma_1: {np.abs(values - reference).max() / values[0]:.1e}")


if __name__ == "__main__":
    run()
