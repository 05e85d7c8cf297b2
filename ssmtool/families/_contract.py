"""What a family file provides. A family is a module; these are the types its functions speak.

A family module defines
    SUMMARY: str                    one line for --help and the docs table
    REFERENCE: str                  paper or repository the names and formulas come from
    VARIANTS: tuple[str, ...]       the layouts `tiny` can make; each goes through the conformance suite
    layers(tensors, config) -> tuple[Layer, ...]      the layers of this family found; () if none. Raises FamilyError
                                                      for tensors that are of this family but inconsistent
    reduced_config(config, layer, slots) -> dict      a copy of config.json's content with the new state size
    tiny(variant, seed) -> (dict[str, np.ndarray], dict | None)      a small random checkpoint of the family
    forward(layer, arrays, u) -> np.ndarray           the family's own formula, independent of the canonical form

and, where its layers are linear and time-invariant,
    to_system(layer, arrays) -> DiagonalSystem | DenseSystem
    from_system(layer, arrays, system) -> dict[str, np.ndarray | None]
    STEPS: tuple[str, ...]          roles that only rescale time (steps of discretisation); may be left out

or, where they are selective (Layer.lti is False),
    to_mixers(layer, arrays) -> tuple[DiagonalMixer | ScalarMixer, ...]      added up; several for bidirectional layers
    from_mixers(layer, arrays, mixers) -> dict[str, np.ndarray | None]       the tensors of a mixer with fewer states
    stack(tensors, config, layers) -> Stack | None    names of what surrounds the mixers in a language model that has
                                                      nothing but mixers; None where other blocks take part

All are pure functions without input or output. `tensors` maps full tensor names to TensorInfo; `arrays` maps the
layer's *roles* (keys of Layer.tensors) to float64 / complex128 / int64 arrays shaped as stored. `to_system` also takes
PyTorch tensors of those dtypes, with gradients (see _arrays), and then makes systems of tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Constraints:
    """What the family's storage can express; the pipeline reconciles a reduction with it.

    Attributes:
        shared_poles: all systems of a layer share one set of poles (up to the step): only a common subset can be kept.
        real_poles: every slot is one real state; complex pairs cannot be stored.
        export: name of the layout a reduced layer is written in, where it differs from the original's, else "".
    """

    shared_poles: bool = False
    real_poles: bool = False
    export: str = ""


@dataclass(frozen=True)
class Layer:
    """One state-space layer of a checkpoint.

    Attributes:
        name: the layer's path with wrapper prefixes stripped, unique in the checkpoint ("layers.0").
        family: the family module's name.
        variant: the layout, one of the family's VARIANTS or a finer word for it.
        tensors: role -> full tensor name in the checkpoint; exactly the tensors `to_system` needs.
        systems, inputs, outputs: S, m, p of the canonical system (S4D: H, 1, 1; S5: 1, H, H; Mamba: one per inner
            channel, E, 1, 1). For bidirectional layers the rows of the backward direction are stacked below the forward
            ones: p counts both.
        slots: stored modes per system.
        order: states of the real input-output system per system, as stored.
        lti: False for input-dependent layers.
        options: facts that are not tensors (disc, conj_sym, gamma convention, directions, l_max, ...), JSON-able.
        note: anything the user should know, one sentence; "" if nothing.
        constraints: what a reduced layer may look like.
    """

    name: str
    family: str
    variant: str
    tensors: Mapping[str, str]
    systems: int
    inputs: int
    outputs: int
    slots: int
    order: int
    lti: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    constraints: Constraints = Constraints()


@dataclass(frozen=True)
class Stack:
    """Tensor names of a language model made of mixer blocks alone: x = x + mixer(norm(x)), logits = head norm_f(x).

    Attributes:
        embedding, final_norm: tensor names.  head: the embedding's own name where the two are tied.
        norms: layer name -> tensor name of the block's RMS norm, in order of application.
        eps: of the norms.
    """

    embedding: str
    head: str
    norms: Mapping[str, str]
    final_norm: str
    eps: float
