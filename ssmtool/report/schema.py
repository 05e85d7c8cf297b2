"""Shapes of the JSON documents, one per sub-command. docs/json.md says the same in words.

`SCHEMA_VERSION` grows when a field is renamed, removed or changes its meaning; new fields may appear without.
A float that is infinite is written as the string "Infinity", one that does not exist as null.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tool(_Strict):
    name: Literal["ssmtool"] = "ssmtool"
    version: str


class Source(_Strict):
    path: str
    kind: Literal["safetensors", "pickle", "directory", "npy", "npz", "text"]
    sha256: str | None = Field(description="of the file; null where only headers were read")
    tensors: int
    bytes: int = Field(description="of all tensors; of the arrays read, in float64, where the input is no checkpoint")


class Document(_Strict):
    schema_version: Literal[1] = SCHEMA_VERSION
    tool: Tool
    command: str
    input: Source | list[Source]
    options: dict[str, Any]


class LayerFacts(_Strict):
    name: str
    family: str
    variant: str
    systems: int
    inputs: int
    outputs: int
    order: int = Field(description="states of the real input-output system, per system, as stored")
    stored_slots: int = Field(description="stored modes per system")


class InspectLayer(LayerFacts):
    channels: int
    lti: bool
    dtypes: list[str]
    parameters: int
    share: float = Field(description="of all parameters of the checkpoint")
    bytes: int
    tensors: dict[str, str] = Field(description="role -> name in the checkpoint")
    options: dict[str, Any]
    note: str


class InspectDocument(Document):
    parameters: int
    state_space_parameters: int
    state_space_share: float
    layers: list[InspectLayer]


class HsvLayer(LayerFacts):
    redundant: int = Field(description="exactly redundant states, total over the layer's systems")
    unstable: int = Field(description="states with an eigenvalue on or outside the unit circle, total")
    sigma: list[list[float]] = Field(description="per system, `order` values, descending")
    orders: dict[str, list[int]] = Field(description='target, e.g. "energy_0.99", -> order per system')


class HsvDocument(Document):
    layers: list[HsvLayer]
    skipped: list[str] = Field(description="selected layers that are input-dependent")


class Output(_Strict):
    path: str
    bytes: int


class CompressLayer(LayerFacts):
    method: str = Field(description='"" for a layer left as it is')
    slots_after: int
    orders_after: list[int] = Field(description="per system")
    hankel_norm: list[float] = Field(description="per system, of the original")
    bound: list[float | None] = Field(description="per system, a priori, H-infinity; null where there is none")
    hinf_error: list[float] = Field(description="per system, measured")
    h2_error: list[float] = Field(description="per system, measured")
    bound_relative: float | None
    hinf_error_relative: float
    h2_error_relative: float
    bytes_before: int
    bytes_after: int
    remarks: list[str]
    tried: dict[str, float] = Field(description="method -> error, the simplest first; empty if one was asked for")
    refined: bool = Field(description="whether it was fitted to the original on inputs afterwards")


class RefinedLayer(_Strict):
    name: str
    before: float = Field(description="mean square error of the block's output over its variance, held out")
    after: float
    steps: int


class RefinedOutputs(_Strict):
    kind: Literal["classes", "values"]
    before: float = Field(description="divergence in nats for classes, mean square over variance for values")
    after: float
    steps: int = Field(description="of all fits together")


class RefinementFacts(_Strict):
    layers: list[RefinedLayer]
    outputs: RefinedOutputs
    agreement_before: float | None = Field(description="share of outputs with the original's class; null for values")
    agreement_after: float | None
    fitted_sequences: int
    held_out_sequences: int


class AllocationCandidate(_Strict):
    name: str
    states: int
    bytes_after: int = Field(description="of the whole checkpoint, as it would be stored")
    loss: float | None = Field(description="on held-out calibration inputs; null where nothing was measured")
    accuracy: float | None = Field(description="with labels, else agreement with the original; null for values")
    allowed: bool = Field(description="takes no more bytes than uniform, or its layout was asked for")
    ranks: dict[str, int | list[int]] = Field(description="layer -> rank, or one per system")


class AllocationFacts(_Strict):
    asked: str
    kept: str
    total: int = Field(description="states there were to share out")
    measure: str = Field(description="what loss is; empty if nothing was measured")
    judged: int = Field(description="sequences that judged")
    candidates: list[AllocationCandidate]


class CompressDocument(Document):
    target: str
    method: str = Field(description='as asked for, e.g. "best"')
    output: Output | None = Field(description="null for a dry run")
    bytes_before: int
    bytes_after: int
    layers: list[CompressLayer]
    refinement: RefinementFacts | None = Field(description="null without --refine")
    control: RefinementFacts | None = Field(description="the same fit on white noise; null without --control")
    skipped_layers: list[str] = Field(description="selected layers that are input-dependent")
    skipped_files: list[str] = Field(description="files of the input that did not go along")
    allocation: AllocationFacts | None = Field(None, description="null if every system got the same")


class TokenFacts(_Strict):
    description: str
    sequences: int
    length: int
    sha256: str = Field(description="of shape and values")


class CalibratedMixer(_Strict):
    static_values: list[list[float]] = Field(description="per group, from weights alone, descending")
    values: list[list[float]] | None = Field(description="per group, calibrated, descending; null without tokens")
    predicted_error: list[float] | None = Field(description="relative, with 0 ... N states kept")
    effective_size: float | None = Field(description="exp of the entropy of the squared values")
    states_for_error: dict[str, int] | None = Field(description="predicted error -> least number of states")


class CalibratedLayer(LayerFacts):
    mixers: list[CalibratedMixer] = Field(description="two for bidirectional layers")


class CalibratedHsvDocument(Document):
    tokens: TokenFacts | None = Field(description="null where only weights were looked at")
    layers: list[CalibratedLayer]


class SelectiveCompressLayer(LayerFacts):
    method: str
    states_after: int
    predicted_error: float = Field(description="of the weighted scan output, before any refit")
    projection_error: float = Field(description="what the best projection to as many states would leave")
    scan_error: float = Field(description="of the weighted scan output, measured")
    output_error: float = Field(description="of what the layer adds, measured")
    refit_before: float | None
    refit_after: float | None
    bytes_before: int
    bytes_after: int


class SelectiveCompressDocument(Document):
    target: str
    export: Literal["stock", "projected"]
    select: str | None
    refit_steps: int
    tokens: TokenFacts
    output: Output | None = Field(description="null for a dry run")
    bytes_before: int
    bytes_after: int
    layers: list[SelectiveCompressLayer]
    skipped_files: list[str]


class InputError(_Strict):
    input: str
    gain: float
    error: float
    within: bool


class Agreement(_Strict):
    scan: float
    convolution: float


class ValidateLayer(_Strict):
    name: str
    systems: int
    slots_before: int
    slots_after: int
    bound: float | None
    hinf: float
    hinf_within: bool
    inputs: list[InputError]
    agreement_before: Agreement
    agreement_after: Agreement
    operation: str = Field(description="the layer's scan")
    seconds_before: float
    seconds_after: float
    floor_before: float | None = Field(description="share of the least time the GPU allows; null on other devices")
    floor_after: float | None
    speedup: float | None
    compared: Literal["whole", "stable part"] = Field(description="what errors, outputs and times are those of")
    unstable_before: int = Field(description="states on or outside the unit circle, total; set aside and compared")
    unstable_after: int
    unstable_deviation: float | None = Field(description="of what these states do, relative; null without any")
    passed: bool
    reason: str


class ValidateDocument(Document):
    reduced: Source
    passed: bool
    length: int
    device: str
    backend: str = Field(description="what ran the scans: naive, cpu, triton or torch")
    max_error: float | None
    layers: list[ValidateLayer]


class LanguageFacts(_Strict):
    predictions: int = Field(description="next tokens predicted")
    loss_before: float = Field(description="mean cross-entropy, nats per token")
    loss_after: float
    perplexity_before: float
    perplexity_after: float
    perplexity_increase: float = Field(description="in percent")
    bits_before: float = Field(description="cross-entropy, bits per token")
    bits_after: float
    kl: float = Field(description="mean KL divergence of the next-token distributions from the original's, nats")
    agreement: float = Field(description="share of places with the same likeliest token")


class SelectiveValidateLayer(_Strict):
    name: str
    states_before: int
    states_after: int
    predicted_error: float | None = Field(description="of the weighted scan output, recorded by compress")
    scan_error: float = Field(description="of the weighted scan output, measured")
    output_error: float = Field(description="of what the layer adds, measured")
    operation: str = Field(description="the layer's scan")
    rounding_before: float = Field(description="relative deviation of the scan alone from float64")
    rounding_after: float
    seconds_before: float = Field(description="of one scan")
    seconds_after: float
    speedup: float
    floor_before: float | None = Field(description="share of the least time the GPU allows; null on other devices")
    floor_after: float | None


class SelectiveValidateDocument(Document):
    reduced: Source
    passed: bool
    reasons: list[str]
    tokens: TokenFacts
    language: LanguageFacts
    state_bytes_before: int = Field(description="of the selective layers, one sequence, float32")
    state_bytes_after: int
    decoding_before: float | None = Field(description="tokens per second on this machine; null where not measured")
    decoding_after: float | None
    device: str
    backend: str = Field(description="what ran the scans: naive, cpu, triton or torch")
    timed_sequences: int = Field(description="on which the scans were timed")
    timed_length: int
    max_perplexity_increase: float | None
    max_kl: float | None
    max_error: float | None
    compared_sequences: int = Field(description="on which the layers were compared")
    layers: list[SelectiveValidateLayer]


class EvaluateResult(_Strict):
    path: str
    task: str
    accuracy: float
    correct: int
    total: int
    parameters: int
    stored_modes: int
    seconds: float


class EvaluateDocument(Document):
    results: list[EvaluateResult]
