"""Which r of N states to keep, where states can only be kept or dropped; and the mixer with these states alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ssmtool.errors import UsageError
from ssmtool.selective.choices import Select
from ssmtool.selective.mixers import DiagonalMixer, Mixer, ScalarMixer
from ssmtool.selective.mixing import eliminate_mixed
from ssmtool.selective.statistics import Calibration


@dataclass(frozen=True)
class Selection:
    """States to keep.

    Attributes:
        kept: (G, r) ascending indices.
        mix: (G, r, N) least-squares combination of the rows of C that the kept states are read with; None: no mixing.
        loss: predicted squared error of the weighted scan output, relative to its energy; NaN for a score that
            predicts none.
    """

    kept: np.ndarray
    mix: np.ndarray | None = None
    loss: float = float("nan")


def select(
    mixer: Mixer,
    calibration: Calibration,
    rank: int,
    how: Select = Select.elimination,
    *,
    taylor: np.ndarray | None = None,
    seed: int = 0,
) -> Selection:
    """Choose `rank` states per group.

    elimination: drop states one by one, each time the one whose loss adds least to the error of the weighted output;
    for Mamba-1 without norms on B and C the error is that after the rows of C were mixed anew (selective/mixing.py).
    ghost: sqrt(E h^2 C^2) (GHOST). magnitude: norm of the state's row for B times that for C. taylor: `taylor`, first-
    order change of the loss (SSM-Pruner). random: control.

    Args:
        mixer: numpy fields.
        calibration: of the same mixer.
        rank: r, 1 ... N.
        how: the rule.
        taylor: (G, N) scores, needed for that rule.
        seed: of the random rule.

    Raises:
        UsageError: Taylor scores are missing.
    """
    groups, states = calibration.ghost.shape
    if how is Select.elimination:
        if calibration.coupling is not None and _mixable(mixer):
            found = [eliminate_mixed(coupling, rank) for coupling in calibration.coupling]
            kept, mix = np.stack([f.kept for f in found]), np.stack([f.mix for f in found])
            lost = sum(f.loss for f in found)
            return Selection(kept, mix, lost / max(float(calibration.joint.sum()), 1e-300))
        kept = np.stack([eliminate(joint, rank) for joint in calibration.joint])
        return Selection(kept, None, dropped_energy(calibration, kept))
    if how is Select.random:
        scores = np.random.default_rng(seed).random((groups, states))
    elif how is Select.ghost:
        scores = calibration.ghost
    elif how is Select.magnitude:
        scores = _row_norms(mixer)
    elif taylor is None:
        raise UsageError("selection by Taylor scores needs the gradient of the model's loss")
    else:
        scores = taylor
    kept = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :rank], axis=1)
    return Selection(kept, None, dropped_energy(calibration, kept))


def eliminate(joint: np.ndarray, rank: int) -> np.ndarray:
    """Backward elimination on E[(C * h)(C * h)^T] (N, N): the loss of dropping a set is the sum of its block."""
    kept = list(range(len(joint)))
    added = joint.diagonal().copy()
    while len(kept) > rank:
        worst = min(kept, key=lambda i: added[i])
        kept.remove(worst)
        added += 2 * joint[worst]
    return np.array(kept)


def dropped_energy(calibration: Calibration, kept: np.ndarray) -> float:
    """Squared error of the weighted scan output when only `kept` (G, r) states remain, relative to its energy."""
    lost = 0.0
    for joint, keep in zip(calibration.joint, kept, strict=True):
        rest = np.setdiff1d(np.arange(len(joint)), keep)
        lost += joint[np.ix_(rest, rest)].sum()
    return float(lost / max(calibration.joint.sum(), 1e-300))


def keep_states(mixer: Mixer, selection: Selection) -> Mixer:
    """The mixer with the chosen states alone, their rows of C mixed if the selection says so; numpy fields."""
    kept = selection.kept
    if isinstance(mixer, DiagonalMixer):
        chosen = np.arange(len(kept))[:, None]
        rows_c = mixer.x_c[chosen, kept]
        if selection.mix is not None:
            rows_c = selection.mix @ mixer.x_c
        width = mixer.channels // mixer.groups
        if mixer.b_norm is not None and not (kept == kept[0]).all():
            raise UsageError("groups of a mixer with norms on B and C must keep the same states")
        return replace(
            mixer,
            x_b=mixer.x_b[chosen, kept],
            x_c=rows_c,
            a_log=np.take_along_axis(mixer.a_log, np.repeat(kept, width, axis=0), axis=1),
            b_norm=None if mixer.b_norm is None else mixer.b_norm[kept[0]],
            c_norm=None if mixer.c_norm is None else mixer.c_norm[kept[0]],
        )
    return _keep_rows(mixer, kept)


def _keep_rows(mixer: ScalarMixer, kept: np.ndarray) -> ScalarMixer:
    inner, wide, states = mixer.channels, mixer.in_b.shape[0], mixer.states
    flat = (kept + states * np.arange(len(kept))[:, None]).ravel()
    convolved = np.concatenate([np.arange(inner), inner + flat, inner + wide + flat])
    in_bias = mixer.in_bias
    if in_bias is not None:
        rest = np.arange(2 * inner + 2 * wide, len(in_bias))
        in_bias = in_bias[np.concatenate([np.arange(inner), inner + convolved, rest])]
    return replace(
        mixer,
        in_b=mixer.in_b[flat],
        in_c=mixer.in_c[flat],
        in_bias=in_bias,
        conv=None if mixer.conv is None else mixer.conv[convolved],
        conv_bias=None if mixer.conv_bias is None else mixer.conv_bias[convolved],
    )


def _mixable(mixer: Mixer) -> bool:
    """Rows of C may be mixed where C is a linear map of the input: Mamba-1 without norms."""
    return isinstance(mixer, DiagonalMixer) and mixer.c_norm is None


def _row_norms(mixer: Mixer) -> np.ndarray:
    """(G, N) norm of the weights that make a state's B, times that of its C."""
    if isinstance(mixer, DiagonalMixer):
        return np.linalg.norm(mixer.x_b, axis=2) * np.linalg.norm(mixer.x_c, axis=2)
    return (np.linalg.norm(mixer.in_b, axis=1) * np.linalg.norm(mixer.in_c, axis=1)).reshape(mixer.groups, -1)
