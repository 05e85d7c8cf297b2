"""What `validate` finds out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputResult:
    """One layer driven by one input.

    Attributes:
        input: "noise", "impulse", "step" or the name of the file.
        gain: largest ||y - y_r||_2 / ||u||_2 over the layer's systems, relative to the system's Hankel norm.
        error: largest ||y - y_r||_2 / ||y||_2 over the layer's systems.
        within: whether every system's error stays below its bound.
    """

    input: str
    gain: float
    error: float
    within: bool


@dataclass(frozen=True)
class Agreement:
    """Largest relative deviation (L2, over systems and inputs) from the float64 reference, of one model's layer."""

    scan: float
    convolution: float


@dataclass(frozen=True)
class LayerValidation:
    """One layer of both models.

    Attributes:
        name: layer name. systems: S. slots: stored modes before and after.
        bound: largest certified H-infinity bound (recorded or recomputed) relative to the Hankel norm.
        hinf: largest measured H-infinity error of a system relative to its Hankel norm; infinite where unstable states
            differ.
        hinf_within: whether every system's H-infinity error stays below its bound.
        inputs: per input.
        original, reduced: agreement of scan and convolution (float32) with the float64 reference.
        operation: the scan.
        seconds_original, seconds_reduced: scan time of the layer, best of several.
        floor_original, floor_reduced: share of the GPU's floor that the scan reaches; None on other devices.
        unstable: states on or outside the unit circle before and after, all systems together. Where there are any,
            the other numbers are about the stable parts.
        unstable_deviation: largest relative deviation of what those states do; None where there are none.
        passed: within the bound, below max_error if one was given, and the same unstable states in both.
        reason: why not, "" if passed.
    """

    name: str
    systems: int
    slots: tuple[int, int]
    bound: float
    hinf: float
    hinf_within: bool
    inputs: tuple[InputResult, ...]
    original: Agreement
    reduced: Agreement
    operation: str
    seconds_original: float
    seconds_reduced: float
    floor_original: float | None
    floor_reduced: float | None
    unstable: tuple[int, int]
    unstable_deviation: float | None
    passed: bool
    reason: str

    @property
    def stable_part(self) -> bool:
        """Whether errors, outputs and times are those of the stable part, and not of the whole layer."""
        return any(self.unstable)


@dataclass(frozen=True)
class Validation:
    """Result of `validate`.

    Attributes:
        layers: one per layer that both models have. length: steps of the inputs. device: where the scans ran.
        backend: what ran them, of those in `ssmtool_kernels.backends`.
        max_error: the limit on InputResult.error, None if there was none.
    """

    layers: tuple[LayerValidation, ...]
    length: int
    device: str
    backend: str
    max_error: float | None

    @property
    def passed(self) -> bool:
        return all(layer.passed for layer in self.layers)
