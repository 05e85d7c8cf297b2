"""Second moments of what a selective scan really sees, accumulated in float64 over any number of tokens.

Only the bilinear form C_t^T h_t leaves the state, so that E[C C^T] measures how strongly each direction of the state is
read, and E[sum_e w_e h_e h_e^T] how strongly it is driven; w_{t,e} = (gain_{t,e} |out column e|)^2 is what the mixer's
output makes of a small error in channel e (gate, norm and output projection; errors of different channels taken as
uncorrelated). The mathematics is in docs/selective.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssmtool.errors import CalibrationError
from ssmtool.selective.forward import Trace
from ssmtool.selective.mixers import DiagonalMixer, Mixer

COUPLING_LIMIT = 32  # N^4 numbers: 8 MiB at N = 32


@dataclass(frozen=True)
class Calibration:
    """Moments of one mixer, per group g of channels that share B and C; float64 means over `samples` states, and over
    all tokens where only C takes part.

    Attributes:
        tokens: tokens that were run.  samples: states that were measured, at equal distances in time.
        reachability: (G, N, N) W_c = E sum_e w_e h_e h_e^T.
        observability: (G, N, N) W_o = E C C^T.
        joint: (G, N, N) E sum_e w_e (C * h_e)(C * h_e)^T; its sum is the weighted energy of the scan's output, and the
            sum over rows and columns i, j in a set is the energy lost with these states.
        coupling: (G, N, N, N, N) E[C_c C_k sum_e w_e h_ei h_ej] at [c, i, k, j], for Mamba-1 with N <= 32; else None.
        ghost: (G, N) E sum_e (h_en C_n)^2 with no weights: the square of GHOST's score.
        output: E |mixer output|^2.
    """

    tokens: int
    samples: int
    reachability: np.ndarray
    observability: np.ndarray
    joint: np.ndarray
    coupling: np.ndarray | None
    ghost: np.ndarray
    output: float


class Statistics:
    """Accumulates a `Calibration`; memory does not grow with the number of tokens."""

    def __init__(self, mixer: Mixer, *, stride: int = 1) -> None:
        """Args: mixer with tensor fields; stride: measure every stride-th state (they change slowly)."""
        groups, states = mixer.groups, mixer.scanned
        self._mixer, self._stride = mixer, stride
        self._columns = mixer.out[:, -mixer.channels :].double().square().sum(0)
        shape = (groups, states, states)
        device = mixer.out.device
        self._reach, self._observe, self._joint = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(3)
        )
        self._ghost = torch.zeros(groups, states, dtype=torch.float64, device=device)
        self._coupling: Tensor | None = None
        if isinstance(mixer, DiagonalMixer) and states <= COUPLING_LIMIT:
            self._coupling = torch.zeros(groups, states**2, states**2, dtype=torch.float64, device=device)
        self._tokens = self._samples = 0
        self._output = 0.0

    @torch.no_grad()
    def update(self, trace: Trace, out: Tensor) -> None:
        """Add one batch: the trace of a call from zero state, and what the mixer put out (b, L, d)."""
        batch, length = trace.dt.shape[:2]
        groups = self._mixer.groups
        weights = (trace.gain.double().square() * self._columns).unflatten(-1, (groups, -1))
        _, read_by = scanned(self._mixer, trace)
        every = read_by.double().transpose(1, 2)
        self._observe += _gram(every)
        for t, h in states(self._mixer, trace, self._stride):
            c = read_by[:, t].double()
            h = h.double()
            rows = h * weights[:, t, :, :, None].sqrt()
            self._reach += _gram(rows)
            self._joint += _gram(rows * c[:, :, None])
            self._ghost += (h * c[:, :, None]).square().sum((0, 2))
            if self._coupling is not None:
                read = (c[..., :, None] * c[..., None, :]).flatten(2)
                driven = (rows.mT @ rows).flatten(2)
                self._coupling += torch.einsum("bgp,bgq->gpq", read, driven)
            self._samples += batch
        self._tokens += batch * length
        self._output += out.double().square().sum().item()

    def result(self) -> Calibration:
        """The moments so far. Raises CalibrationError if nothing, or something that is not finite, was seen."""
        if not self._samples:
            raise CalibrationError("no state was measured: the calibration has no tokens")
        coupling = None
        if self._coupling is not None:
            n = self._mixer.scanned
            coupling = self._coupling.unflatten(2, (n, n)).unflatten(1, (n, n)).permute(0, 1, 3, 2, 4)
        found = Calibration(
            tokens=self._tokens,
            samples=self._samples,
            reachability=self._mean(self._reach),
            observability=(self._observe / self._tokens).cpu().numpy(),
            joint=self._mean(self._joint),
            coupling=None if coupling is None else self._mean(coupling),
            ghost=self._mean(self._ghost),
            output=self._output / self._tokens,
        )
        if not all(np.isfinite(part).all() for part in (found.reachability, found.observability, found.joint)):
            raise CalibrationError("states or outputs are not finite on the calibration tokens")
        return found

    def sums(self) -> dict[str, np.ndarray]:
        """Everything that was accumulated; `restore` goes on from there, to the same bits."""
        found = {name: total.cpu().numpy() for name, total in self._totals().items()}
        return {**found, "counts": np.array([self._tokens, self._samples]), "output": np.array(self._output)}

    def restore(self, sums: Mapping[str, np.ndarray]) -> None:
        """Go on from `sums` of the same mixer. Raises KeyError, ValueError: they are of another one."""
        totals = self._totals()
        for name, total in totals.items():
            if sums[name].shape != total.shape or sums[name].dtype != np.float64:
                raise ValueError(f"{name} is not of this mixer")
        tokens, samples = sums["counts"].tolist()
        output = float(sums["output"].item())
        for name, total in totals.items():
            total.copy_(torch.as_tensor(sums[name]))
        self._tokens, self._samples, self._output = tokens, samples, output

    def _totals(self) -> dict[str, Tensor]:
        named = {"reach": self._reach, "observe": self._observe, "joint": self._joint, "ghost": self._ghost}
        return named if self._coupling is None else {**named, "coupling": self._coupling}

    def _mean(self, total: Tensor) -> np.ndarray:
        return (total / self._samples).cpu().numpy()


def states(mixer: Mixer, trace: Trace, stride: int = 1) -> Iterator[tuple[int, Tensor]]:
    """The states (b, G, E/G, N) after every stride-th step of a call that began with zeros, with the step's index.

    The last step of each stride is taken, so that early, nearly empty states weigh as little as they should. The tensor
    belongs to the caller until the next one is asked for.
    """
    batch, length = trace.dt.shape[:2]
    B, _ = scanned(mixer, trace)
    x = trace.x.reshape(batch, length, mixer.groups, -1)
    A = -mixer.a_log.exp()
    if isinstance(mixer, DiagonalMixer):
        return _every_step(A.unflatten(0, (mixer.groups, -1)), trace.dt.view_as(x), x, B, stride)
    return _every_stride(A, trace.dt, x, B, stride)


def _every_step(A: Tensor, dt: Tensor, x: Tensor, B: Tensor, stride: int) -> Iterator[tuple[int, Tensor]]:
    """Mamba-1: A (G, E/G, N), dt and x (b, L, G, E/G), B (b, L, G, N)."""
    driven = dt * x
    h = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype, device=x.device)
    for t in range(x.shape[1]):
        h.mul_(torch.exp(dt[:, t, ..., None] * A)).addcmul_(driven[:, t, ..., None], B[:, t, :, None])
        if (t + 1) % stride == 0:
            yield t, h


def _every_stride(A: Tensor, dt: Tensor, x: Tensor, B: Tensor, stride: int) -> Iterator[tuple[int, Tensor]]:
    """Mamba-2: A (H,), dt (b, L, H), x (b, L, G, E/G), B (b, L, G, N); what a stride adds is one matrix product."""
    groups, share = x.shape[2:]
    width = groups * share // len(A)

    def spread(per_head: Tensor) -> Tensor:
        return per_head.repeat_interleave(width, dim=-1).unflatten(-1, (groups, share))

    h = x.new_zeros(x.shape[0], groups, share, B.shape[-1])
    for end in range(stride, x.shape[1] + 1, stride):
        part = slice(end - stride, end)
        total = (dt[:, part] * A).cumsum(1)
        driven = x[:, part] * spread(dt[:, part] * (total[:, -1:] - total).exp())
        added = driven.permute(0, 2, 3, 1) @ B[:, part].permute(0, 2, 1, 3)
        h = added.addcmul_(spread(total[:, -1].exp())[..., None], h)
        yield end - 1, h


def scanned(mixer: Mixer, trace: Trace) -> tuple[Tensor, Tensor]:
    """B and C (b, L, G, N or r) as the scan reads them: projected where the mixer is."""
    if isinstance(mixer, DiagonalMixer) or mixer.project_b is None:
        return trace.B, trace.C
    return (
        torch.einsum("grn,blgn->blgr", mixer.project_b, trace.B),
        torch.einsum("grn,blgn->blgr", mixer.project_c, trace.C),
    )


def _gram(rows: Tensor) -> Tensor:
    """sum over b and e of rows rows^T: (b, G, e, N) -> (G, N, N)."""
    flat = rows.transpose(0, 1).flatten(1, 2)
    return flat.mT @ flat
