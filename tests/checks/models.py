"""Small checkpoints in the neutral format, and what their layers are, from textbook formulas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ssmtool.cache import Cache
from ssmtool.checks.check import check
from ssmtool.checks.findings import Check
from ssmtool.checks.policy_file import read_policy
from ssmtool.pipeline.model import load

Array = NDArray[np.complexfloating]
Parts = tuple[Array, Array, Array]  # lambda_log (S, n), B (S, n, 1), C (S, 1, n)


def parts(seed: int = 0, systems: int = 3, slots: int = 4) -> Parts:
    """Random stable single-input single-output systems without redundant states."""
    rng = np.random.default_rng(seed)
    poles = -rng.uniform(0.02, 0.5, (systems, slots)) + 1j * rng.uniform(0.1, 3.0, (systems, slots))
    B, C = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape) for shape in 2 * [(systems, slots)])
    return poles, B[..., None], C[:, None]


def write(path: Path, layers: Mapping[str, Parts]) -> Path:
    """A checkpoint with these layers, complex128."""
    tensors = {}
    for name, arrays in layers.items():
        for leaf, array in zip(("lambda_log", "B", "C"), arrays, strict=True):
            tensors[f"{name}.{leaf}"] = _pairs(array)
    save_file(tensors, path)
    return path


def _pairs(array: Array) -> np.ndarray:
    return np.stack([array.real, array.imag], axis=-1)


def realised(arrays: Parts, s: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """System s as real A, B, C in coordinates (Re x, Im x)."""
    lam, b, c = np.exp(arrays[0][s]), arrays[1][s, :, 0], arrays[2][s, 0]
    A = np.block([[np.diag(lam.real), -np.diag(lam.imag)], [np.diag(lam.imag), np.diag(lam.real)]])
    return A, np.concatenate([b.real, b.imag])[:, None], np.concatenate([c.real, -c.imag])[None]


def sigma(arrays: Parts) -> np.ndarray:
    """(S, 2n) Hankel singular values, roots of the eigenvalues of P Q from two Lyapunov equations."""
    rows = []
    for s in range(len(arrays[0])):
        A, B, C = realised(arrays, s)
        P = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
        Q = scipy.linalg.solve_discrete_lyapunov(A.T, C.T @ C)
        rows.append(np.sort(np.sqrt(np.abs(np.linalg.eigvals(P @ Q))))[::-1])
    return np.array(rows)


def impulse(arrays: Parts, length: int = 4096) -> np.ndarray:
    """(S, length) impulse responses, Re C exp(k a) B."""
    k = np.arange(length)
    weights = arrays[1][:, :, 0] * arrays[2][:, 0]
    return np.einsum("sn,snk->sk", weights, np.exp(arrays[0][..., None] * k)).real


def checked(path: Path, *changes: str, **rest: Any) -> Check:
    """A check of one model by the rules that `changes` name, without the built-in ones; nothing is kept."""
    named = {change.partition(".")[0] for change in changes}
    policy = read_policy(None, changes).only(tuple(named))
    return check([load(path)], policy, **{"cache": Cache(None), **rest})


def values(found: Check) -> list[float | None]:
    """The numbers that were measured."""
    return [finding.value for finding in found.findings]
