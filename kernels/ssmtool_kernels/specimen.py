"""One kernel as ahead-of-time compilation sees it; every `triton.py` lists its own in `specimens()`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Specimen:
    """A kernel with the types and constants it is launched with.

    Attributes:
        kernel: a function decorated with triton.jit.
        types: argument -> Triton type ("*fp32", "i32", "fp32"), constants left out. Pointers, and integers named in
            `aligned`, are taken as divisible by 16, as launches with contiguous tensors find them.
        constants: constexpr argument -> value.
        warps, stages: launch options.
        label: what distinguishes it: dtype and configuration, such as "bf16 N=16".
        aligned: integer arguments that are divisible by 16.
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    label: str
    warps: int = 4
    stages: int = 2
    aligned: tuple[str, ...] = field(default_factory=tuple)
