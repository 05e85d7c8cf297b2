"""Zero-order hold and bilinear rules for diagonal systems, both ways, without cancellation.

Discrete eigenvalues are handled through their logarithms a. With z = dt lam / 2:

    ZOH       a = dt lam                          bbar = (exp(a) - 1) / lam
    bilinear  a = log((1 + z) / (1 - z))          bbar = dt / (1 - z) = dt (1 + exp(a)) / 2

and backwards lam = a / dt, or lam = (2 / dt) tanh(a / 2). Arrays broadcast; complex128 throughout.
"""

from __future__ import annotations

import numpy as np

from ssmtool.families._arrays import array_namespace, as_complex, at_least

# exp(-745) is the smallest positive double: a faster decay cannot be told from it, and -inf would make 0 * inf.
FASTEST = -745.0
# Under the bilinear rule lam = -2/dt means exp(a) = 0, and code that takes the logarithm of exp(a) in float32 returns
# nan there. Poles faster than this are written as this: off by 1e-6 of the mode's first value, float32's own noise.
FASTEST_BILINEAR = float(np.log(1e-6))


def expm1(a: np.ndarray) -> np.ndarray:
    """exp(a) - 1 for complex a, accurate where a is small: expm1(x) cos y - 2 sin²(y/2) + i exp(x) sin y."""
    xp, a = array_namespace(a), as_complex(a)
    x, y = xp.real(a), xp.imag(a)
    return xp.expm1(x) * xp.cos(y) - 2 * xp.sin(y / 2) ** 2 + 1j * xp.exp(x) * xp.sin(y)


def _zoh_input(a: np.ndarray, dt: np.ndarray) -> np.ndarray:
    """(exp(a) - 1) / lam = dt (exp(a) - 1) / a, with its limit dt at a = 0."""
    xp, zero = array_namespace(a), a == 0
    return dt * xp.where(zero, 1.0, expm1(a) / xp.where(zero, 1.0, a))


def zoh(lam: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Continuous eigenvalues -> (a, bbar) under zero-order hold. Im a is dt Im lam, not folded."""
    a = as_complex(dt * lam)
    return a, _zoh_input(a, dt)


def bilinear(lam: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Continuous eigenvalues -> (a, bbar) under the bilinear rule.

    Re a = ½ log(|1+z|² / |1-z|²), through log1p of 4 Re z / |1-z|² near the unit circle; Im a in (-π, π] from
    (1+z)(1-z̄) = 1 - |z|² + 2i Im z.
    """
    z = as_complex(dt * lam / 2)
    xp = array_namespace(z)
    x, y = xp.real(z), xp.imag(z)
    plus, minus = (1 + x) ** 2 + y**2, (1 - x) ** 2 + y**2
    gone = plus == 0  # exp(a) = 0: written as FASTEST
    with np.errstate(divide="ignore"):
        step = 4 * x / minus
        size = xp.where(step > -0.5, xp.log1p(at_least(step, -0.75)), xp.log(xp.where(gone, 1.0, plus) / minus)) / 2
    angle = xp.atan2(2 * y, (1 - x) * (1 + x) - y**2)
    return at_least(xp.where(gone, FASTEST, size), FASTEST) + 1j * angle, dt / (1 - z)


def zoh_inverse(a: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Discrete eigenvalues' logarithms -> (lam, bbar) under zero-order hold."""
    a = np.maximum(np.real(a), FASTEST) + 1j * np.imag(a)
    return a / dt, _zoh_input(a, dt)


def bilinear_inverse(a: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Discrete eigenvalues' logarithms -> (lam, bbar) under the bilinear rule.

    tanh((x+iy)/2) = (sinh x + i sin y) / (2 (sinh²(x/2) + cos²(y/2))). A negative eigenvalue (y = ±π) gives a real
    lam: sin y and cos(y/2) are then zero and not the 1e-16 that floating point makes of them.
    """
    x, y = np.maximum(np.real(a), FASTEST_BILINEAR), np.imag(a)
    off = np.abs(np.remainder(y, 2 * np.pi) - np.pi)  # distance of the angle from π, modulo 2π
    negative = off <= 4e-16 * np.maximum(np.abs(y), np.pi)
    sine, cosine = np.where(negative, 0.0, np.sin(y)), np.where(negative, 0.0, np.cos(y / 2))
    lam = 2 / dt * (np.sinh(x) + 1j * sine) / (2 * (np.sinh(x / 2) ** 2 + cosine**2))
    return lam, dt * (2 + expm1(x + 1j * y)) / 2


def discretise(disc: str, lam: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`zoh` or `bilinear` by name. Raises KeyError for another name."""
    return {"zoh": zoh, "bilinear": bilinear}[disc](lam, dt)


def undiscretise(disc: str, a: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`zoh_inverse` or `bilinear_inverse` by name. Raises KeyError for another name."""
    return {"zoh": zoh_inverse, "bilinear": bilinear_inverse}[disc](a, dt)
