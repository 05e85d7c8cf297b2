"""One impulse response as a state-space model: the methods, what each costs, and the order a target asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ssmtool import plugins
from ssmtool.checkpoint import round_to
from ssmtool.errors import ReductionError
from ssmtool.lti.kernel_residues import lag_error
from ssmtool.lti.realise import Realisation
from ssmtool.lti.response_error import ResponseError, response_error
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.lti.textbook import current_input
from ssmtool.reductions._contract import Options, Target

METHODS = ("balanced", "era", "aak")
MOST = 512  # states up to which the decomposition of long responses is iterated
_FULL = 2048  # size of a Hankel matrix up to which all of its singular values can be had
_START = 32  # states the first decomposition is made for when the order is not given
_AAK_MORE = 48  # states beyond twice the order that the Hankel-norm approximation starts from
AAK_MOST = 128  # states up to which `best` tries it: it takes the cube of their number
_SAME = 0.02  # errors that differ by this share are equally good: the simpler method wins


@dataclass(frozen=True)
class Candidate:
    """One model of one response, as it would be stored.

    Attributes:
        method: one of METHODS.
        system: S = 1, rounded to its storage type.
        order, slots: its states; how many slots it uses.
        bound: a priori, NaN without one.
        error: measured.
        moved: poles that had to be moved into the unit circle.
    """

    method: str
    system: DiagonalSystem
    order: int
    slots: int
    bound: float
    error: ResponseError
    moved: int = 0


class Solver:
    """Models of one response h (p, m, L).

    Args:
        dtype: the models will be stored in, "F32" or "F64".
        feedthrough: keep h_0 as D and realise h_1, h_2, ...
        device: of the decompositions.
        single: whether the lags were rounded to single precision.

    Attributes:
        spectrum: the decomposition whose Hankel singular values targets are about.
    """

    def __init__(self, h: np.ndarray, dtype: str, feedthrough: bool, device: str, *, single: bool = False) -> None:
        self._h, self._dtype, self._feedthrough, self._device = h, dtype, feedthrough, device
        self._sequence = h[:, :, 1:] if feedthrough else h
        self._single = single
        self._made: dict[tuple[str, int], Candidate] = {}
        self.most = min(h.shape[:2]) * self._sequence.shape[2]
        self._long = max(h.shape[:2]) * self._sequence.shape[2] > _FULL
        if self._long:
            self.most = min(self.most, MOST)

    def start(self, target: Target, aak: bool) -> None:
        """Decompose as far as a target needs at first; Hankel-norm approximation looks at more than it keeps."""
        if target.kind == "energy":  # the sum over all of them is needed
            self.prepare(_START if self._long else self.most)
        else:
            count = target.rank if target.kind == "rank" else _START
            self.prepare((2 * count if aak else count) + _AAK_MORE)

    def prepare(self, count: int) -> None:
        """Decompose for models of up to `count` states."""
        self.spectrum = Realisation(self._sequence, min(count, self.most), self._device, single=self._single)
        self._made = {}

    @property
    def hankel_norm(self) -> float:
        return float(self.spectrum.sigma.max(initial=0.0))

    def candidate(self, method: str, order: int) -> Candidate:
        """The model of at most `order` states by one method; the last one is remembered."""
        if (method, order) not in self._made:
            self._made = {(method, order): self._candidate(method, order)}
        return self._made[method, order]

    def _candidate(self, method: str, order: int) -> Candidate:
        bound, order = np.nan, min(order, self.spectrum.usable)
        optimal = method == "aak" and order < self.spectrum.usable
        if method == "era":
            models = self.spectrum.era(order)
        elif optimal:
            model, bound = self._aak(order)
            models = [(model, 0)]
        else:
            models, bound = [(self.spectrum.balanced(order), 0)], 2 * float(self.spectrum.tail[order])
        if self._feedthrough:
            forms = [current_input(replace(model, D=self._h[None, :, :, 0])) for model, _ in models]
            bound += float(forms[0][1][0])
            models = [(form, moved) for (form, _), (_, moved) in zip(forms, models, strict=True)]
        stored = [self._stored(model) for model, _ in models]
        errors = [lag_error(model, self._h) for model in stored]
        chosen = _best(errors, [moved for _, moved in models])
        (model, moved), best = models[chosen], stored[chosen]
        used = (np.abs(best.B[0]).max(axis=1) > 0) & (np.abs(best.C[0]).max(axis=0) > 0)
        best = DiagonalSystem(best.a[:, used], best.B[:, used], best.C[:, :, used], best.D)
        # Before rounding: a half turn in single precision is not quite one.
        states = int(np.where(model.a[0, used].imag % np.pi == 0, 1, 2).sum())
        return Candidate(method, best, states, int(used.sum()), bound, response_error(best, self._h), moved)

    def least(self, found: Candidate) -> float:
        """No system with as many states, with a D if this one has one, comes nearer in the H-infinity norm.

        The Hankel matrix of the error is that of the response less one of rank r, so its norm is at least sigma_{r+1};
        a D can take away what concerns h_0, a block of min(p, m) rows or columns at most.
        """
        sigma, rank = self.spectrum.sigma, found.order
        if found.system.D.any() and not self._feedthrough:
            rank += min(self._h.shape[:2])
        return float(sigma[rank]) if rank < len(sigma) else 0.0

    def order_for_energy(self, share: float) -> int:
        """The fewest states with this share of the sum of Hankel singular values. Raises ReductionError."""
        while True:
            sums, tail = np.concatenate([[0.0], np.cumsum(self.spectrum.sigma)]), self.spectrum.tail
            kept = np.divide(sums, sums + tail, out=np.ones_like(sums), where=sums + tail > 0)
            enough = np.flatnonzero(kept >= share * (1 - 1e-14))
            if len(enough):
                return int(enough[0])
            if not self._grow():
                raise ReductionError(
                    f"the share {share:g} cannot be met with {self.most} states: the best reachable is {kept[-1]:.4g}",
                    remedy="Ask for a smaller share or give --rank",
                )

    def smallest(self, method: str, limit: float, most: int) -> tuple[Candidate | None, float]:
        """The model with the fewest states, at most `most`, whose measured H-infinity error is at most `limit`.

        Found by doubling and bisection: the error of a method seldom rises with the order.

        Returns:
            the model, or None if there is none; the least error met with on the way.
        """
        reached = np.inf
        while True:
            # With fewer states than there are larger singular values no model can do it.
            low = int((self.spectrum.sigma > limit).sum()) - (min(self._h.shape[:2]) if method == "aak" else 0)
            high = min(self.spectrum.usable, most)
            if low <= high:
                found, least = _smallest(lambda order: self.candidate(method, order), limit, max(low, 0), high)
                reached = min(reached, least)
                if found is not None:
                    return found, reached
            if high == most or not self._grow():
                return None, reached

    def _grow(self) -> bool:
        """Twice as many singular values; False if there are no more to have."""
        before = len(self.spectrum.sigma)
        if self.spectrum.complete or before >= self.most or self.spectrum.usable < self.spectrum.count:
            return False
        self.prepare(2 * self.spectrum.count)
        return True

    def _aak(self, order: int) -> tuple[DiagonalSystem, float]:
        """Optimal Hankel-norm approximation of the truncation to as many states as are known, and its bound.

        D is chosen with it, unless it is h_0: what is approximated then is h_1, h_2, ..., whose D stays 0.
        """
        known = min(self.spectrum.usable, 2 * order + _AAK_MORE)
        full = self.spectrum.truncated(known)
        hankel_norm = plugins.load("ssmtool.reductions", "hankel_norm")
        options = Options(feedthrough=not self._feedthrough)
        result = hankel_norm.reduce(full, Target("rank", order), options=options)
        written = float(np.max(result.diagonal_error))
        return result.system, float(result.bound[0]) + written + 2 * float(self.spectrum.tail[known])

    def _stored(self, system: DiagonalSystem) -> DiagonalSystem:
        """Rounded to the storage type; where h_0 is to be kept, D makes up for the rounding of C B."""

        def rounded(z: NDArray[np.complexfloating]) -> NDArray[np.complexfloating]:
            return round_to(np.real(z), self._dtype) + 1j * round_to(np.imag(z), self._dtype)

        a, B, C, D = rounded(system.a), rounded(system.B), rounded(system.C), system.D
        if self._feedthrough:
            D = self._h[None, :, :, 0] - np.matmul(C, B).real
        return DiagonalSystem(a, B, C, round_to(D, self._dtype))


def _smallest(make: Callable[[int], Candidate], limit: float, low: int, high: int) -> tuple[Candidate | None, float]:
    """The first order in [low, high] whose model meets the limit, if errors fall with the order; the least error."""
    failed, met, best, step, reached = low - 1, high + 1, None, 1, np.inf
    order = low
    while met - failed > 1:
        found = make(order)
        reached = min(reached, found.error.hinf)
        if found.error.hinf <= limit:
            met, best = order, found
        else:
            failed = order
        if best is None:
            order, step = min(order + step, high), 2 * step
        else:
            order = (met + failed) // 2
    return best, reached


def best_of(candidates: list[Candidate]) -> Candidate:
    """The model with the least error over the lags; ties go to the earlier one."""
    return candidates[_best([c.error.lags for c in candidates], [c.moved for c in candidates])]


def _best(errors: list[float], moved: list[int]) -> int:
    """Where the least error is, or one as good before it; a model with moved poles has to halve the others' error."""
    weighed = [error * (2 if count else 1) for error, count in zip(errors, moved, strict=True)]
    return next(i for i, error in enumerate(weighed) if error <= min(weighed) * (1 + _SAME))
