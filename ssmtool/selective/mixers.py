"""The canonical form of a selective mixer: every name and layout of a family undone, every multiplier folded in.

A mixer maps the (normalised) hidden states x (b, L, d) of a block to what the block adds to its residual stream. The
fields are numpy arrays when a family made them and torch tensors after `to_torch`; letters as in docs/notation.md:
d model width, E inner width, N states, R rank of the step projection, K taps of the convolution, H heads of width P
(E = H P), G groups that share B and C.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = Any  # np.ndarray from a family, torch.Tensor after to_torch


@dataclass(frozen=True)
class DiagonalMixer:
    """Mamba-1: E scalar-input systems with N real states each, h = exp(dt A) h + dt B x, y = C h + D x.

    Attributes:
        x_dt: (G, R, E/G), x_b and x_c: (G, N, E/G): dt_low, B and C as linear maps of the convolved input. G > 1 for
            families whose heads have projections of their own (Zamba).
        dt_weight: (G, E/G, R), dt_bias: (E,): dt = softplus(dt_weight dt_low + dt_bias).
        a_log: (E, N): A = -exp(a_log).
        d_skip: (E,).
        in_x, in_z: (E, d) input and gate; their biases (E,) or None. in_x is None where the surroundings of the scan
            are not a causal sequence (VMamba): such a mixer can be diagnosed from its weights but not run. in_z is
            None where there is no gate.
        conv: (E, K) causal depth-wise filter, newest tap last, None where there is none; conv_bias: (E,) or None.
        out: (d, E), out_bias: (d,) or None.
        dt_norm (R,), b_norm (N,), c_norm (N,): weights of RMS norms on dt_low, B and C; None where there is none.
        norm_eps: of those norms.
        reverse: the mixer reads its input from the end to the beginning. forward_conv: all but its convolution, which
            comes first and is causal in the input's own order (Vim v1).
    """

    x_dt: Array
    x_b: Array
    x_c: Array
    dt_weight: Array
    dt_bias: Array
    a_log: Array
    d_skip: Array
    in_x: Array = None
    in_z: Array = None
    in_x_bias: Array = None
    in_z_bias: Array = None
    conv: Array = None
    conv_bias: Array = None
    out: Array = None
    out_bias: Array = None
    dt_norm: Array = None
    b_norm: Array = None
    c_norm: Array = None
    norm_eps: float = 0.0
    reverse: bool = False
    forward_conv: bool = False

    @property
    def states(self) -> int:
        """N."""
        return self.x_b.shape[1]

    @property
    def scanned(self) -> int:
        """States per channel that the scan carries: N."""
        return self.states

    @property
    def groups(self) -> int:
        """G."""
        return self.x_b.shape[0]

    @property
    def channels(self) -> int:
        """E."""
        return self.a_log.shape[0]

    @property
    def state_size(self) -> int:
        """Numbers the recurrence carries from one token to the next: E N."""
        return self.channels * self.states


@dataclass(frozen=True)
class ScalarMixer:
    """Mamba-2: H heads with a P x N matrix state each, h = exp(dt a) h + dt x B^T, y = h C + D x.

    Attributes:
        in_z, in_x: (E, d); in_b, in_c: (G N, d); in_dt: (H, d): rows of the input projection. in_bias: (2E + 2GN + H,)
            in the order z, x, B, C, dt, or None.
        conv: (E + 2GN, K) causal depth-wise filter over x, B, C, newest tap last; conv_bias: (E + 2GN,) or None.
        a_log, dt_bias: (H,). d_skip: (H, P) or (H, 1).
        groups: G; head j reads group j // (H / G).
        out: (d, E + M), out_bias: (d,) or None; M = 0 but for layers with a gated linear part of their own:
        in_mlp: (2 M, d) rows z0, x0, or None; silu(z0) x0 is put before y. in_mlp_bias: (2 M,) or None.
        norm: (E,) weight of the gated RMS norm, None where there is none; norm_groups: it is taken over E / norm_groups
            channels at a time; norm_before_gate: norm(y) silu(z) instead of norm(y silu(z)); norm_eps.
        dt_min, dt_max: clamp on dt.
        project_b, project_c: (G, r, N): the scan then runs on project_b B and project_c C with r states, see
            selective/projection.py; None for a mixer that was not reduced so.
        reverse: the mixer reads its input from the end to the beginning.
    """

    in_z: Array
    in_x: Array
    in_b: Array
    in_c: Array
    in_dt: Array
    conv: Array
    a_log: Array
    dt_bias: Array
    d_skip: Array
    out: Array
    groups: int
    in_bias: Array = None
    conv_bias: Array = None
    out_bias: Array = None
    in_mlp: Array = None
    in_mlp_bias: Array = None
    norm: Array = None
    norm_groups: int = 1
    norm_before_gate: bool = False
    norm_eps: float = 1e-5
    dt_min: float = 0.0
    dt_max: float = float("inf")
    project_b: Array = None
    project_c: Array = None
    reverse: bool = False

    @property
    def states(self) -> int:
        """N as B and C are computed."""
        return self.in_b.shape[0] // self.groups

    @property
    def scanned(self) -> int:
        """States per channel that the scan carries: N, or r when projected."""
        return self.states if self.project_b is None else self.project_b.shape[1]

    @property
    def heads(self) -> int:
        """H."""
        return self.a_log.shape[0]

    @property
    def channels(self) -> int:
        """E = H P."""
        return self.in_x.shape[0]

    @property
    def state_size(self) -> int:
        """Numbers the recurrence carries from one token to the next: E N, or E r when projected."""
        return self.channels * self.scanned


Mixer = DiagonalMixer | ScalarMixer
AnyMixer = TypeVar("AnyMixer", DiagonalMixer, ScalarMixer, Mixer)


def to_torch(mixer: AnyMixer, dtype: torch.dtype, device: str = "cpu") -> AnyMixer:
    """The mixer with every array a torch tensor of `dtype` on `device`."""
    import torch

    def convert(value: Any) -> Any:
        return torch.as_tensor(value).to(device, dtype) if isinstance(value, np.ndarray | torch.Tensor) else value

    return replace(mixer, **{f.name: convert(getattr(mixer, f.name)) for f in fields(mixer)})


def to_numpy(mixer: AnyMixer) -> AnyMixer:
    """The mixer with every array a float64 numpy array, as families take it."""

    def convert(value: Any) -> Any:
        return value.detach().cpu().double().numpy() if hasattr(value, "detach") else value

    return replace(mixer, **{f.name: convert(getattr(mixer, f.name)) for f in fields(mixer)})
