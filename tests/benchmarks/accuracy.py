"""Relative accuracy of Hankel singular values: ours, the usual ways, and a many-digit reference.

    python tests/benchmarks/accuracy.py            all systems (seconds with gmpy2, minutes with plain mpmath)
    python tests/benchmarks/accuracy.py ring       those whose name contains "ring"

For every system: the worst relative error over values with sigma / sigma_1 >= 1e-20, and how many of them are right to
1e-6, for ours; for sqrt(eig(P Q)) with scipy's Lyapunov solver; and for the singular values of R^T L with factors of
those Gramians (Cholesky, or eigenvectors with negative eigenvalues set to 0 where Cholesky breaks down).
Exit status 1 if ours misses its target: 1e-10 for one input and one output, 1e-8 otherwise.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import linalg

from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.lti.systems import DiagonalSystem

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.lti import reference
from tests.lti.samples import diagonal, realisation, ring, s4d_inv, s4d_lin, s4d_real

FLOOR = 1e-20
SISO, MIMO = 1e-10, 1e-8


def chain(inputs: int, outputs: int, pairs: int) -> DiagonalSystem:
    """Poles along a ray: values that fall fast."""
    rng = np.random.default_rng(0)
    B = rng.standard_normal((pairs, inputs)) + 1j * rng.standard_normal((pairs, inputs))
    C = rng.standard_normal((outputs, pairs)) + 1j * rng.standard_normal((outputs, pairs))
    return diagonal(-0.05 * np.arange(1, pairs + 1) * (1 + 0.3j), B, C)


# name -> system, decimal digits of the reference
SYSTEMS: dict[str, tuple[DiagonalSystem, int]] = {
    "S4D-Real, 16 states": (s4d_real(16), 100),
    "S4D-Real, 32 states": (s4d_real(32), 180),
    "S4D-Lin, 64 states, dt 0.01": (s4d_lin(32, 0.01), 80),
    "S4D-Inv, 64 states, dt 0.01": (s4d_inv(32, 0.01), 120),
    "S4D-Inv, 64 states, dt 0.001": (s4d_inv(32, 0.001), 120),
    "LRU ring, 48 states": (ring(1, 24, low=0.9), 120),
    "chain, 24 states": (chain(1, 1, 12), 160),
    "MIMO 4x4 ring, 16 states": (ring(1, 8, 4, 4), 60),
    "MIMO 4x4 ring, 24 states": (ring(1, 12, 4, 4, low=0.9), 60),
    "MIMO 4x4 chain, 16 states": (chain(4, 4, 8), 80),
    "MIMO 4x4 chain, 24 states": (chain(4, 4, 12), 100),
    "MIMO 4x4 chain, 48 states": (chain(4, 4, 24), 140),
    "MIMO 2x2 chain, 16 states": (chain(2, 2, 8), 100),
    "SIMO 1x4 chain, 16 states": (chain(1, 4, 8), 100),
}


def gramians(system: DiagonalSystem) -> tuple[np.ndarray, np.ndarray]:
    """P and Q by scipy, in real coordinates without the empty second rows of real slots."""
    A, B, C = realisation(system)
    n = system.slots
    flat = (np.imag(np.exp(system.a[0])) == 0) & (np.abs(system.B[0].imag).max(axis=1) == 0)
    keep = np.concatenate([np.arange(n), n + np.flatnonzero(~flat)])
    A, B, C = A[np.ix_(keep, keep)], B[keep], C[:, keep]
    return linalg.solve_discrete_lyapunov(A, B @ B.T), linalg.solve_discrete_lyapunov(A.T, C.T @ C)


def product(system: DiagonalSystem) -> np.ndarray:
    """sqrt(eig(P Q)); negative eigenvalues become NaN, as they do."""
    P, Q = gramians(system)
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.sort(np.real(np.linalg.eigvals(P @ Q)))[::-1])


def factors(system: DiagonalSystem) -> np.ndarray:
    """Singular values of R^T L with factors of the computed Gramians."""
    L, R = (_factor(G) for G in gramians(system))
    return np.linalg.svd(R.T @ L, compute_uv=False)


def _factor(G: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(G)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(G)
        return vectors * np.sqrt(np.maximum(values, 0))


def ours(system: DiagonalSystem) -> np.ndarray:
    return hankel_singular_values(system).sigma[0]


METHODS: dict[str, Callable[[DiagonalSystem], np.ndarray]] = {
    "ours": ours,
    "sqrt eig(PQ)": product,
    "svd of factors": factors,
}


def judge(values: np.ndarray, truth: np.ndarray) -> tuple[float, int]:
    """Worst relative error (NaN counts as total) and how many are right to 1e-6, among values above the floor."""
    shown = truth >= FLOOR * truth[0]
    found = np.pad(values, (0, max(0, len(truth) - len(values))))[: len(truth)][shown]
    error = np.nan_to_num(np.abs(found / truth[shown] - 1), nan=1.0)
    return float(error.max()), int((error < 1e-6).sum())


def main(wanted: str = "") -> int:
    print(f"{'system':30} {'values':>7} {'sigma_n/sigma_1':>15}" + "".join(f"{name:>20}" for name in METHODS))
    missed = False
    for name, (system, digits) in SYSTEMS.items():
        if wanted.lower() not in name.lower():
            continue
        siso = system.inputs == system.outputs == 1
        begin = time.perf_counter()
        compute = reference.siso_hankel_singular_values if siso else reference.hankel_singular_values
        truth = compute(system, digits)
        seconds = time.perf_counter() - begin
        count = int((truth >= FLOOR * truth[0]).sum())
        line = f"{name:30} {count:>3}/{len(truth):<3} {truth[-1] / truth[0]:>15.1e}"
        for method, solve in METHODS.items():
            error, right = judge(solve(system), truth)
            line += f"{error:>11.1e} ({right:>2}/{count:<2})"
            missed |= method == "ours" and error > (SISO if siso else MIMO)
        print(f"{line}   reference {seconds:.1f} s", flush=True)
    return int(missed)


def run() -> None:
    """All systems; exits if ours misses a target."""
    if main():
        sys.exit("a Hankel singular value misses its target")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
