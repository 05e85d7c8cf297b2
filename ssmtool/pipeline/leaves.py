"""State-space tensors of a live model as leaves to fit, in units in which one learning rate suits all of them.

A layout may store a pole as log(-Re), as Re and Im of a continuous eigenvalue, or as the logarithm of an angle, with a
step in between. What a change of a tensor does to the poles is asked of the family itself, by differentiating its
`to_system` twice; a leaf then moves a decay relative to itself, an angle relative to the pole, a weight relative to the
weights around it, and none farther than it takes its own slope to change by as much as it is (an angle of 0 that is
stored as a logarithm is infinitely far away).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.lti.systems import DiagonalSystem
from ssmtool.pipeline.live_layers import wide
from ssmtool.pipeline.model import family_of

_PROPORTIONAL = 1e-4  # relative deviation up to which a decay counts as proportional to a stored number
_HALVINGS = 30


@dataclass
class Leaf:
    """One tensor as start + scale * x, or start * exp(scale * x) where the sign must stay; x is what is fitted."""

    start: Tensor
    scale: Tensor
    x: Tensor
    factor: bool

    def value(self) -> Tensor:
        move = self.scale * self.x
        return self.start * torch.exp(move) if self.factor else self.start + move


class Leaves:
    """The tensors of one layer that move: poles, input and output weights, feedthrough.

    Steps of discretisation do not: poles and weights say the same. A pole inside the unit circle stays there, see
    `mend`; one that is not inside stays where it is.

    Args:
        layer: a linear time-invariant layer.
        tensors: role -> the layer's live tensors; they stay as they are.

    Raises:
        FamilyError: the family has no differentiable way to poles and residues.
    """

    def __init__(self, layer: Layer, tensors: Mapping[str, Tensor]) -> None:
        self.layer = layer
        self.fixed = {role: x.detach() for role, x in tensors.items()}
        self.complex = {role for role, x in tensors.items() if x.is_complex()}
        self.leaves = self._made()

    def values(self) -> dict[str, Tensor]:
        """Role -> tensor as it is now, for those that move."""
        return self._stored({role: leaf.value() for role, leaf in self.leaves.items()})

    def system(self) -> DiagonalSystem:
        """The layer as it is now; its arrays are torch tensors with gradients to the leaves."""
        return _system(self.layer, {**self.fixed, **self.values()})

    def _stored(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Real leaves as the tensors they stand for."""
        return {role: torch.view_as_complex(x) if role in self.complex else x for role, x in parts.items()}

    def mend(self) -> None:
        """Halve the way of whatever moves a pole that has left the unit circle, until it is inside again."""
        parts = {role: leaf.x for role, leaf in self.leaves.items()}
        for _ in range(_HALVINGS):
            with torch.enable_grad():
                decay = torch.as_tensor(self.system().a).real
                left = self.inside & ~(decay < 0)  # what is no number has left too
                if not bool(left.any()):
                    return
                slopes = _slopes(decay[left].sum(), parts)
            moved = {role: slope != 0 for role, slope in slopes.items()}
            nothing = not any(bool(mask.any()) for mask in moved.values())  # the decay has been rounded to 0
            with torch.no_grad():
                for role, x in parts.items():
                    x.copy_(torch.where(moved[role] | nothing, x / 2, x))

    def _made(self) -> dict[str, Leaf]:
        parts = {role: torch.view_as_real(x) if role in self.complex else x for role, x in self.fixed.items()}
        steps = getattr(family_of(self.layer), "STEPS", ())
        moving = {
            role: x.clone().requires_grad_() for role, x in parts.items() if x.is_floating_point() and role not in steps
        }
        with torch.enable_grad():
            a = torch.as_tensor(_system(self.layer, {**self.fixed, **self._stored(moving)}).a)
            size = a.detach()
            self.inside = size.real < 0
            decays, angles = _reach(a.real, size.real, moving), _reach(a.imag, size.abs(), moving)
            outside = [_slopes(part[~self.inside].sum(), moving) for part in (a.real, a.imag)]
        made = {}
        for role, x in moving.items():
            start, (by_decay, decay), (by_angle, angle) = x.detach(), decays[role], angles[role]
            if not bool(((decay != 0) | (angle != 0)).any()):
                made[role] = Leaf(start, _size_around(start, a.shape[0]), torch.zeros_like(start), False)
                continue
            # A stored number is the decay itself, up to a factor, where the way that changes it by its own size is it.
            factor = not bool((angle != 0).any()) and torch.allclose(by_decay, start.abs(), rtol=_PROPORTIONAL, atol=0)
            scale = torch.ones_like(start) if factor else torch.fmin(by_decay, by_angle).nan_to_num(0.0, 0.0, 0.0)
            held = (outside[0][role] != 0) | (outside[1][role] != 0)
            made[role] = Leaf(start, torch.where(held, 0.0, scale), torch.zeros_like(start), factor)
        for leaf in made.values():
            leaf.x.requires_grad_()
        return made


def _reach(part: Tensor, size: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """How far each number may go to change decays (or angles) by `size`, NaN where it has none; and its slope on them.

    The slope of a sum weighted by size, over that of the plain sum, is size where the number acts; the plain slope is
    that of one pole times the number of poles that share the number. The slope's own slope is 0 for a linear layout;
    for others the way is not longer than slope over curvature.
    """
    plain = _slopes(part.sum(), tensors, again=True)
    weighted = _slopes((size * part).sum(), tensors)
    found = {}
    for role, x in tensors.items():
        slope = plain[role].detach()
        bend = _slopes(plain[role].sum(), {role: x})[role] if plain[role].requires_grad else torch.zeros_like(slope)
        sharing = max(1.0, part.numel() / max(1, int((slope != 0).sum())))
        way = torch.fmin(sharing * weighted[role].abs() / slope.square(), slope.abs() / bend.abs())
        found[role] = (torch.where(slope != 0, way, torch.nan), slope)
    return found


def _slopes(value: Tensor, tensors: Mapping[str, Tensor], again: bool = False) -> dict[str, Tensor]:
    """d value / d tensor, zeros where there is none; `again`: they can be differentiated themselves."""
    found = torch.autograd.grad(value, list(tensors.values()), retain_graph=True, create_graph=again, allow_unused=True)
    return {
        role: torch.zeros_like(x) if slope is None else slope
        for (role, x), slope in zip(tensors.items(), found, strict=True)
    }


def _size_around(x: Tensor, systems: int) -> Tensor:
    """Root mean square of a weight's neighbours: of its own system where the first axis counts systems, else of all."""
    own = x.ndim > 1 and systems > 1 and x.shape[0] == systems
    square = x.square().mean(dim=tuple(range(1, x.ndim)), keepdim=True) if own else x.square().mean()
    return square.sqrt().expand_as(x).clone()


def _system(layer: Layer, tensors: Mapping[str, Tensor]) -> DiagonalSystem:
    """In double precision, whatever the tensors are. Raises FamilyError for dense layers."""
    system = family_of(layer).to_system(layer, {role: wide(x) for role, x in tensors.items()})
    if not isinstance(system, DiagonalSystem):
        raise FamilyError("it has a dense state matrix, and no poles of its own to fit", where=layer.name)
    return system
