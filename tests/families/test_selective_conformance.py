"""What every family of selective layers has to keep, in every layout it can make; found by name, nothing to add here.

Truth is the family's own `forward`, a step-by-step loop over the stored tensors. Tolerance 1e-10 of the largest value
in float64: both sides carry some hundred roundings.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from types import ModuleType

import numpy as np
import pytest
import torch

from ssmtool import plugins
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.selective.forward import forward
from ssmtool.selective.mixers import DiagonalMixer, Mixer, to_numpy, to_torch
from ssmtool.selective.selection import Selection, keep_states

PACKAGE = "ssmtool.families"
FAMILIES = plugins.names(PACKAGE)
CASES = [
    (family, variant)
    for family in FAMILIES
    if hasattr(plugins.load(PACKAGE, family), "to_mixers")
    for variant in plugins.load(PACKAGE, family).VARIANTS
]
EXACT = 1e-10
each_case = pytest.mark.parametrize(("family", "variant"), CASES, ids=[f"{f}-{v}" for f, v in CASES])

Tensors = dict[str, np.ndarray]


def infos(tensors: Tensors) -> dict[str, TensorInfo]:
    return {n: TensorInfo(x.shape, {"float32": "F32", "float64": "F64"}[x.dtype.name]) for n, x in tensors.items()}


def loaded(family: str, variant: str) -> tuple[ModuleType, Tensors, dict | None, tuple[Layer, ...]]:
    module = plugins.load(PACKAGE, family)
    tensors, config = module.tiny(variant, 5)
    return module, tensors, config, module.layers(infos(tensors), config)


def arrays_of(layer: Layer, tensors: Tensors) -> Tensors:
    return {role: tensors[name].astype(np.float64) for role, name in layer.tensors.items()}


def rewritten(layer: Layer, tensors: Tensors, new: Tensors) -> Tensors:
    return tensors | {layer.tensors[role]: x for role, x in new.items()}


def everyone(tensors: dict[str, TensorInfo], config: dict | None) -> list[Layer]:
    return [layer for f in FAMILIES for layer in plugins.load(PACKAGE, f).layers(tensors, config)]


def drive(layer: Layer, mixers: tuple[Mixer, ...], x: np.ndarray) -> np.ndarray:
    """What the canonical mixers compute of x (b, L, d); bare scans side by side on their own inputs."""
    outs = []
    for k, mixer in enumerate(mixers):
        own, mixer = x, to_torch(mixer, torch.float64)
        if mixer.in_x is None:
            own = x[..., k * layer.systems : (k + 1) * layer.systems]
            eye = torch.eye(layer.systems, dtype=torch.float64)
            mixer = replace(mixer, in_x=eye, out=eye)
        outs.append(forward(mixer, torch.as_tensor(own))[0].numpy())
    return np.concatenate(outs, axis=-1) if mixers[0].in_x is None else np.sum(outs, axis=0)


def respond(module: ModuleType, layer: Layer, arrays: Tensors, mixers: tuple[Mixer, ...], x: np.ndarray):
    """The family's answer to x, and the canonical mixers' one. A bare scan is fed what the mixer's SiLU leaves."""
    fed = x if mixers[0].in_x is not None else x / (1 + np.exp(-x))
    return module.forward(layer, arrays, fed), drive(layer, mixers, x)


def sequences(layer: Layer, mixers: tuple[Mixer, ...]) -> np.ndarray:
    first = mixers[0].in_x
    width = layer.systems * len(mixers) if first is None else first.shape[1]
    return np.random.default_rng(0).normal(size=(2, 9, width))


def chosen(mixers: tuple[Mixer, ...], states: np.ndarray) -> tuple[Mixer, ...]:
    """The mixers with the given states, in the given order."""
    return tuple(keep_states(m, Selection(np.tile(states, (m.groups, 1)), None, 0.0)) for m in mixers)


def agree(one: Mixer, other: Mixer) -> bool:
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


@each_case
def test_layers_say_what_they_are(family, variant):
    module, tensors, config, layers = loaded(family, variant)
    assert layers
    for layer in layers:
        assert not layer.lti
        assert (layer.inputs, layer.outputs) == (1, layer.options.get("directions", 1))
        assert layer.slots == layer.order
        assert layer.options["kind"] in ("mamba-1", "mamba-2")
        assert isinstance(layer.options["exportable"], bool)
        json.dumps(dict(layer.options), allow_nan=False)
        mixers = module.to_mixers(layer, arrays_of(layer, tensors))
        assert len(mixers) == layer.outputs
        for mixer in mixers:
            assert (mixer.channels, mixer.states, mixer.groups) == (
                layer.systems,
                layer.slots,
                layer.options["groups"],
            )
    stack = module.stack(infos(tensors), config, layers)
    if stack is not None:
        assert {stack.embedding, stack.head, stack.final_norm, *stack.norms.values()} <= set(tensors)
        assert list(stack.norms) == [layer.name for layer in layers]


@each_case
def test_canonical_mixers_compute_what_the_family_computes(family, variant):
    module, tensors, _, layers = loaded(family, variant)
    for layer in layers:
        arrays = arrays_of(layer, tensors)
        mixers = module.to_mixers(layer, arrays)
        ours, canonical = respond(module, layer, arrays, mixers, sequences(layer, mixers))
        assert np.abs(ours).max() > 1e-3
        np.testing.assert_allclose(canonical, ours, rtol=0, atol=EXACT * np.abs(ours).max())


@each_case
def test_torch_tensors_go_through_as_arrays_do(family, variant):
    module, tensors, _, layers = loaded(family, variant)
    arrays = arrays_of(layers[0], tensors)
    mixers = module.to_mixers(layers[0], arrays)
    same = module.to_mixers(layers[0], {role: torch.as_tensor(x) for role, x in arrays.items()})
    assert all(agree(to_numpy(a), b) for a, b in zip(same, mixers, strict=True))


@each_case
def test_nothing_is_written_where_nothing_changed(family, variant):
    module, tensors, _, layers = loaded(family, variant)
    for layer in layers:
        arrays = arrays_of(layer, tensors)
        assert module.from_mixers(layer, arrays, module.to_mixers(layer, arrays)) == {}


@each_case
def test_permuted_states_go_back_exactly(family, variant):
    """There and back again gives the stored numbers bit by bit, once they are rounded to the stored type."""
    module, tensors, _, layers = loaded(family, variant)
    order = np.random.default_rng(2).permutation(layers[0].slots)
    for layer in layers:
        arrays = arrays_of(layer, tensors)
        mixers = module.to_mixers(layer, arrays)
        permuted = arrays | module.from_mixers(layer, arrays, chosen(mixers, order))
        again = module.to_mixers(layer, permuted)
        ours, canonical = respond(module, layer, permuted, again, sequences(layer, mixers))
        plain, _ = respond(module, layer, arrays, mixers, sequences(layer, mixers))
        np.testing.assert_allclose(ours, plain, rtol=0, atol=EXACT * np.abs(plain).max())
        np.testing.assert_allclose(canonical, plain, rtol=0, atol=EXACT * np.abs(plain).max())
        back = permuted | module.from_mixers(layer, permuted, chosen(again, np.argsort(order)))
        for role, x in back.items():
            np.testing.assert_array_equal(x.astype(np.float32), tensors[layer.tensors[role]])


def silenced(mixer: Mixer, dead: np.ndarray) -> Mixer:
    """The mixer with rows of C zero for the given states (of B too, where norms take a mean over the states)."""
    if isinstance(mixer, DiagonalMixer):
        x_b, x_c = mixer.x_b.copy(), mixer.x_c.copy()
        x_c[:, dead] = 0
        if mixer.b_norm is not None:
            x_b[:, dead] = 0
        return replace(mixer, x_b=x_b, x_c=x_c)
    wide = mixer.in_b.shape[0]
    rows = mixer.channels + wide + (dead + mixer.states * np.arange(mixer.groups)[:, None]).ravel()
    conv, bias = mixer.conv.copy(), mixer.conv_bias.copy()
    conv[rows], bias[rows] = 0, 0
    return replace(mixer, conv=conv, conv_bias=bias)


def rescaled(mixer: Mixer, before: int) -> Mixer:
    """A mean of squares over fewer states, undone: (s v) / sqrt(mean over N' of (s v)²) is s times the old one."""
    if not isinstance(mixer, DiagonalMixer) or mixer.b_norm is None:
        return mixer
    s = np.sqrt(mixer.states / before)
    return replace(mixer, x_b=mixer.x_b * s, x_c=mixer.x_c * s, b_norm=mixer.b_norm / s, c_norm=mixer.c_norm / s)


@each_case
def test_dead_states_can_go(family, variant):
    """Removed, written, found again with the smaller size: the outputs are the same."""
    module, tensors, config, layers = loaded(family, variant)
    before = layers[0].slots
    dead, kept = np.array([1, 3]), np.array([0, 2, 4])
    whole, small = dict(tensors), dict(tensors)
    for layer in layers:
        arrays = arrays_of(layer, tensors)
        quiet = tuple(silenced(m, dead) for m in module.to_mixers(layer, arrays))
        new = module.from_mixers(layer, arrays, quiet)
        whole = rewritten(layer, whole, new)
        shrunk = tuple(rescaled(m, before) for m in chosen(quiet, kept))
        small = rewritten(layer, small, new | module.from_mixers(layer, arrays | new, shrunk))
    config = None if config is None else module.reduced_config(config, layers[0], len(kept))
    found = module.layers(infos(small), config)
    assert [layer.name for layer in found] == [layer.name for layer in layers]
    assert {f for f in FAMILIES if plugins.load(PACKAGE, f).layers(infos(small), config)} == {family}
    for layer, old in zip(found, layers, strict=True):
        assert (layer.slots, layer.order, layer.systems) == (len(kept), len(kept), old.systems)
        assert dict(layer.options) | {"states": 0} == dict(old.options) | {"states": 0}
        arrays = arrays_of(layer, small)
        mixers = module.to_mixers(layer, arrays)
        x = sequences(layer, mixers)
        plain, _ = respond(module, old, arrays_of(old, whole), mixers, x)
        ours, canonical = respond(module, layer, arrays, mixers, x)
        np.testing.assert_allclose(ours, plain, rtol=0, atol=EXACT * np.abs(plain).max())
        np.testing.assert_allclose(canonical, plain, rtol=0, atol=EXACT * np.abs(plain).max())


@each_case
def test_another_kind_of_mixer_is_refused(family, variant):
    module, tensors, _, layers = loaded(family, variant)
    arrays = arrays_of(layers[0], tensors)
    mixers = module.to_mixers(layers[0], arrays)
    if isinstance(mixers[0], DiagonalMixer):
        other = tuple(replace(m, x_b=np.concatenate([m.x_b, m.x_b])) for m in mixers)
    else:
        one = np.ones((mixers[0].groups, 2, mixers[0].states))
        other = tuple(replace(m, project_b=one, project_c=one) for m in mixers)
    with pytest.raises(FamilyError):
        module.from_mixers(layers[0], arrays, other)


@each_case
@pytest.mark.parametrize("how", ["configuration", "names", "types"])
def test_quantised_weights_are_refused(family, variant, how):
    _, tensors, config, layers = loaded(family, variant)
    known = infos(tensors)
    name = next(n for r, n in layers[0].tensors.items() if "x_proj" in r or "in_proj.weight" in r)
    complaint = "int4-test"
    if how == "configuration":
        config = {**(config or {}), "quantization_config": {"quant_method": complaint}}
    elif how == "names":
        complaint = name.removesuffix(".weight") + ".qweight"
        known = {n: t for n, t in known.items() if n != name or not n.endswith(".weight")}
        known[complaint] = TensorInfo((4, 4), "I32")
        known[name.removesuffix(".weight") + ".scales"] = TensorInfo((1, 4), "F16")
    else:
        complaint = "U8"
        known[name] = TensorInfo(known[name].shape, "U8")
    with pytest.raises(FamilyError, match="quantised") as error:
        everyone(known, config)
    assert complaint in error.value.line()
    assert error.value.remedy
    assert "\n" not in str(error.value)


@each_case
def test_without_configuration_every_layer_has_one_owner_or_an_answer(family, variant):
    """Mamba-2 cannot be read without it; Mamba-1 can, and says what may have been missed where it may."""
    _, tensors, _, layers = loaded(family, variant)
    if layers[0].options["kind"] == "mamba-2":
        with pytest.raises(FamilyError, match=r"config\.json") as error:
            everyone(infos(tensors), None)
        assert error.value.where
        assert error.value.remedy
        return
    found = everyone(infos(tensors), None)
    assert [layer.name for layer in found] == [layer.name for layer in layers]
    owner = {layer.family for layer in found}
    assert owner == ({"mamba"} if family == "falcon_mamba" else {family})
    if family in ("mamba", "falcon_mamba"):
        assert all("FalconMamba" in layer.note for layer in found)
