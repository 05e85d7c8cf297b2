"""State-space tensors of a live model as leaves to fit, in units in which one learning rate suits all of them.

A layout may store a pole as log(-Re), as Re and Im of a continuous eigenvalue, or as the logarithm of an angle, with a
step in between. What a change of a tensor does to the poles is asked of the family itself, by differentiating its
`to_system`; a leaf then moves a decay relative to itself, an angle relative to the pole, a weight relative to the
weights around it.
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
    """One tensor as start + scale * x, or start * exp(x) where the sign must stay; x is what is fitted."""

    start: Tensor
    scale: Tensor
    x: Tensor
    factor: bool

    def value(self) -> Tensor:
        return self.start * torch.exp(self.x) if self.factor else self.start + self.scale * self.x


class Leaves:
    """The tensors of one layer that move.

    Steps of discretisation do not: poles and weights say the same. A pole stays inside the unit circle, see `mend`.

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

    @torch.no_grad()
    def mend(self) -> None:
        """Halve the way the leaves have gone until every pole is inside the unit circle again."""
        for _ in range(_HALVINGS):
            if bool((torch.as_tensor(self.system().a).real < 0).all()):
                return
            for leaf in self.leaves.values():
                leaf.x.mul_(0.5)

    def _made(self) -> dict[str, Leaf]:
        parts = {role: torch.view_as_real(x) if role in self.complex else x for role, x in self.fixed.items()}
        moving = {role: x.clone().requires_grad_() for role, x in parts.items() if x.is_floating_point()}
        with torch.enable_grad():
            a = torch.as_tensor(_system(self.layer, {**self.fixed, **self._stored(moving)}).a)
            size = a.detach()
            # The slope of a sum weighted by w, over that of the plain sum, is w where a tensor's entry acts.
            decay, decays = (_slopes((w * a.real).sum(), moving) for w in (torch.ones_like(size.real), size.real))
            angle, angles = (_slopes((w * a.imag).sum(), moving) for w in (torch.ones_like(size.real), size.abs()))
            first = _slopes(a[:, 0].real.sum() + a[:, 0].imag.sum(), moving)
        made = {}
        for role, x in moving.items():
            start, poles = x.detach(), (decay[role] != 0) | (angle[role] != 0)
            if not bool(poles.any()):
                made[role] = Leaf(start, _size_around(start, a.shape[0]), torch.zeros_like(start), False)
            elif a.shape[1] == 1 or not bool(((first[role] != 0) == poles).all()):
                by_decay = decays[role].abs() / decay[role].square()
                by_angle = angles[role].abs() / angle[role].square()
                scale = torch.fmin(by_decay, by_angle).nan_to_num(0.0, 0.0, 0.0)
                target = decays[role] / decay[role]
                same = (start * decay[role] - target).abs() <= _PROPORTIONAL * target.abs()
                factor = not bool((angle[role] != 0).any()) and bool(same[poles].all())
                made[role] = Leaf(start, scale, torch.zeros_like(start), factor)
            # else all slots hang on it: a step, which stays
        for leaf in made.values():
            leaf.x.requires_grad_()
        return made


def _slopes(value: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """d value / d tensor, zeros where there is none."""
    found = torch.autograd.grad(value, list(tensors.values()), retain_graph=True, allow_unused=True)
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
