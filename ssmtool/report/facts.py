"""Small facts about layers and spectra that text and JSON both show, computed in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ssmtool.checkpoint.dtypes import BITS
from ssmtool.checkpoint.tensors import TensorInfo

if TYPE_CHECKING:
    from ssmtool.families._contract import Layer
    from ssmtool.pipeline.model import Model

ENERGIES = (0.9, 0.99, 0.999)
ERRORS = (1e-2, 1e-3)


@dataclass(frozen=True)
class Share:
    """Some tensors of a checkpoint.

    Attributes:
        parameters: numbers in them.  bytes: their size.
        dtypes: their dtypes, each once, sorted.
    """

    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


def share(infos: Iterable[TensorInfo]) -> Share:
    """What some tensors amount to."""
    infos = list(infos)
    return Share(
        sum(info.size for info in infos),
        sum(info.size * BITS[info.dtype] // 8 for info in infos),
        tuple(sorted({info.dtype for info in infos})),
    )


def layer_share(model: Model, layers: Iterable[Layer]) -> Share:
    """What the tensors of some layers amount to; one that two layers share counts once."""
    names = {name for layer in layers for name in layer.tensors.values()}
    return share(model.checkpoint.tensors[name] for name in names)


def channels(layer: Layer) -> int:
    """Width of the sequence the layer maps: outputs of all its systems, of one direction."""
    return layer.systems * layer.outputs // int(layer.options.get("directions", 1))


def orders(sigma: np.ndarray) -> dict[str, np.ndarray]:
    """Orders that targets ask for: "energy_<share of the sum>" and "error_<relative bound>" -> (S,) int64.

    Args:
        sigma: (S, n), descending.
    """
    from ssmtool.lti.orders import order_for_energy, order_for_error

    found = {f"energy_{share:g}": order_for_energy(sigma, share) for share in ENERGIES}
    return found | {f"error_{error:.0e}".replace("e-0", "e-"): order_for_error(sigma, error) for error in ERRORS}


def scale(sigma: np.ndarray) -> np.ndarray:
    """(S, 1) largest finite value of each system; 1 where all finite ones are 0."""
    top = np.where(np.isinf(sigma), 0.0, sigma).max(axis=1, initial=0.0, keepdims=True)
    return np.where(top > 0, top, 1.0)
