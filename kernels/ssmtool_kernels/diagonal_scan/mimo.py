"""Diagonal systems of several inputs and outputs (S5, LRU), a chunk of time at a time: only its states exist.

Everything is in reals, two for a complex mode: on, off (S, w) see `block_scan.pairs`; inward (S, m, w) with
v = u inward; outward (S, p, w) with y = x outward^T + u D^T.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ssmtool_kernels.block_scan.pairs import raw_backward, raw_forward
from ssmtool_kernels.diagonal_states.op import as_blocks, reals

CACHED = 1 << 17  # reals of a chunk's states: half a megabyte in float32 stays in a second-level cache
ON_GPU = 1 << 24


def mimo_scan(
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """lam (S, n), B (S, n, m), C (S, p, n) complex, D (S, p, m), u (b, S, L, m), x0 (k, S, n) -> y, last."""
    on, off = as_blocks(lam)
    outward = torch.stack([C.real, -C.imag], -1).flatten(2)
    y, last, _ = _scan(on, off, reals(B.mT), outward, D, u, reals(x0), resets, offsets, backend)
    return y, torch.view_as_complex(last.unflatten(-1, (-1, 2)))


def _steps(u: Tensor, width: int) -> int:
    """Time steps of a chunk."""
    room = ON_GPU if u.is_cuda else CACHED
    return min(max(room // max(u.shape[0] * u.shape[1] * width, 1), 16), max(u.shape[2], 1))


def _chunks(u: Tensor, width: int, offsets: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Sequences that are scanned at once, and their chunks of time: a whole batch, or packed ones one by one."""
    steps = _steps(u, width)
    bounds = offsets.tolist() if u.shape[0] == 1 else [0, u.shape[2]]
    for i in range(len(bounds) - 1):
        start, stop = bounds[i], bounds[i + 1]
        which = slice(i, i + 1) if u.shape[0] == 1 else slice(None)
        yield which, [slice(t, min(t + steps, stop)) for t in range(start, stop, steps)]


class _Chunk:
    """One chunk of time: its drive, its states, and what the scan needs to know of it."""

    def __init__(self, on: Tensor, off: Tensor | None, resets: Tensor | None, backend: str) -> None:
        self.on, self.off, self.resets, self.backend = on, off, resets, backend

    def layout(self, v: Tensor, time: slice) -> tuple[Tensor | None, Tensor]:
        batch, systems, length = v.shape[:3]
        mask = None
        if self.resets is not None:
            mask = self.resets[:, None, time].expand(batch, systems, length).reshape(-1)
        return mask, torch.arange(batch * systems + 1, device=v.device) * length

    def forward(self, v: Tensor, x: Tensor, time: slice) -> tuple[Tensor, Tensor]:
        """v (b, S, l, w), x (b, S, w) -> states like v, last like x."""
        flat, before = v.flatten(0, 2), x.flatten(0, 1)
        states, last = raw_forward(self.on, self.off, flat, before, *self.layout(v, time), self.backend)
        return states.view(v.shape), last.view(x.shape)

    def backward(
        self, states: Tensor, x: Tensor, time: slice, dstates: Tensor, dlast: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        mask, offsets = self.layout(states, time)
        flat = states.flatten(0, 2), x.flatten(0, 1), mask, offsets, dstates.flatten(0, 2), dlast.flatten(0, 1)
        don, doff, dv, dx = raw_backward(self.on, self.off, *flat, self.backend)
        return don, doff, dv.view(states.shape), dx.view(x.shape)


@torch.library.custom_op("ssmtool::diagonal_scan_mimo", mutates_args=())
def _scan(
    on: Tensor,
    off: Tensor | None,
    inward: Tensor,
    outward: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, S, L, p), last (k, S, w), and the states before chunks, which the adjoint starts from."""
    y, last, starts = _outputs(inward, outward, u, x0, offsets)
    last.copy_(x0)
    scan = _Chunk(on.contiguous(), None if off is None else off.contiguous(), resets, backend)
    number = 0
    for which, times in _chunks(u, on.shape[1], offsets):
        x = x0[which].contiguous()
        for time in times:
            starts[number] = x
            number += 1
            part = u[:, :, time]
            states, x = scan.forward(part @ inward, x, time)
            y[:, :, time] = states @ outward.mT + part @ D.mT
        last[which] = x
    return y, last, starts


def _outputs(inward: Tensor, outward: Tensor, u: Tensor, x0: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, systems, length = u.shape[:3]
    width = inward.shape[2]
    steps = _steps(u, width)
    number = (length + steps - 1) // steps + (len(offsets) - 1 if batch == 1 else 0)
    y = u.new_empty((batch, systems, length, outward.shape[1]))
    return y, x0.new_empty(x0.shape), u.new_empty((number, batch, systems, width))


@_scan.register_fake
def _(
    on: Tensor,
    off: Tensor | None,
    inward: Tensor,
    outward: Tensor,
    D: Tensor,
    u: Tensor,
    x0: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(inward, outward, u, x0, offsets)


@torch.library.custom_op("ssmtool::diagonal_scan_mimo_backward", mutates_args=())
def _scan_backward(
    on: Tensor,
    off: Tensor | None,
    inward: Tensor,
    outward: Tensor,
    D: Tensor,
    u: Tensor,
    starts: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dy: Tensor,
    dlast: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What on, off (empty without), inward, outward, D, u and x0 lose."""
    lost = [torch.zeros_like(on), torch.zeros_like(on if off is None else off)]
    lost += [torch.zeros_like(inward), torch.zeros_like(outward), torch.zeros_like(D)]
    du, dx0 = torch.empty_like(u, memory_format=torch.contiguous_format), dlast.clone()
    scan = _Chunk(on.contiguous(), None if off is None else off.contiguous(), resets, backend)
    groups = list(_chunks(u, on.shape[1], offsets))
    number = sum(len(times) for _, times in groups)
    for which, times in reversed(groups):
        carried = dlast[which].contiguous()
        for time in reversed(times):
            number -= 1
            part, given = u[:, :, time], dy[:, :, time]
            states, _ = scan.forward(part @ inward, starts[number], time)
            don, doff, dv, carried = scan.backward(states, starts[number], time, given @ outward, carried)
            du[:, :, time] = dv @ inward.mT + given @ D
            found = (don, doff, (part.mT @ dv).sum(0), (given.mT @ states).sum(0), (given.mT @ part).sum(0))
            for total, more in zip(lost, found, strict=True):
                if more is not None:
                    total += more
        dx0[which] = carried
    return lost[0], lost[1], lost[2], lost[3], lost[4], du, dx0


@_scan_backward.register_fake
def _(
    on: Tensor,
    off: Tensor | None,
    inward: Tensor,
    outward: Tensor,
    D: Tensor,
    u: Tensor,
    starts: Tensor,
    resets: Tensor | None,
    offsets: Tensor,
    dy: Tensor,
    dlast: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    empty = [z.new_empty(z.shape) for z in (on, on, inward, outward, D, u, dlast)]
    return empty[0], empty[1], empty[2], empty[3], empty[4], empty[5], empty[6]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    on, off, inward, outward, D, u, _, resets, bounds, ctx.backend = inputs
    ctx.save_for_backward(on, off, inward, outward, D, u, output[2], resets, bounds)


def _differentiate(ctx: Any, dy: Tensor, dlast: Tensor, _: Tensor) -> tuple[Any, ...]:
    don, doff, *others = _scan_backward(*ctx.saved_tensors, dy, dlast, ctx.backend)
    return don, None if ctx.saved_tensors[1] is None else doff, *others, None, None, None


_scan.register_autograd(_differentiate, setup_context=_setup)
