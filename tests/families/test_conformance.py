"""What every family has to keep, in every layout it can make. A new family is found by its name; nothing to add here.

Truth is the family's own `forward` (its published formula) against the impulse response of the canonical system.
Tolerances: 1e-9 of the largest value in float64 (both sides carry a few hundred roundings, and full S4 recovers its C
through a solve); 2e-5 for tensors rounded to float32, whose parameters are exponentiated (eps 6e-8 times exponents of
up to a few tens, times some tens of steps).
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from ssmtool import plugins
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._contract import Layer
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.systems import DiagonalSystem

PACKAGE = "ssmtool.families"
FAMILIES = plugins.names(PACKAGE)
CASES = [(family, variant) for family in FAMILIES for variant in plugins.load(PACKAGE, family).VARIANTS]
LINEAR = [(family, variant) for family, variant in CASES if hasattr(plugins.load(PACKAGE, family), "to_system")]
LENGTH = 24
EXACT, SINGLE = 1e-9, 2e-5
SAFETENSORS = {"float64": "F64", "float32": "F32", "complex64": "C64", "complex128": "C128", "int64": "I64"}

each_case = pytest.mark.parametrize(("family", "variant"), CASES, ids=[f"{f}-{v}" for f, v in CASES])
each_linear = pytest.mark.parametrize(("family", "variant"), LINEAR, ids=[f"{f}-{v}" for f, v in LINEAR])


def infos(tensors: dict[str, np.ndarray]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(x.shape, SAFETENSORS[str(x.dtype)]) for name, x in tensors.items()}


def loaded(family: str, variant: str, seed: int = 3) -> tuple[ModuleType, dict, dict | None, tuple[Layer, ...]]:
    module = plugins.load(PACKAGE, family)
    tensors, config = module.tiny(variant, seed)
    return module, tensors, config, module.layers(infos(tensors), config)


def arrays_of(layer: Layer, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wide = {"f": np.float64, "c": np.complex128, "i": np.int64}
    return {role: tensors[name].astype(wide[tensors[name].dtype.kind]) for role, name in layer.tensors.items()}


def directions(layer: Layer) -> int:
    return layer.options.get("directions", 1)


def expected(layer: Layer, h: np.ndarray, channel: int, at: int) -> np.ndarray:
    """Output (LENGTH, columns) for a unit impulse on input `channel` at time `at`, from (S, p, m, LENGTH) responses.

    Inputs are numbered system by system, outputs row by row over all systems; the backward rows of a two-sided layer
    add to the forward ones in reversed time, `reverse_lag` steps away from the present.
    """
    system, column = divmod(channel, layer.inputs)
    rows = layer.outputs // directions(layer)
    y = np.zeros((LENGTH, rows, layer.systems))
    y[at:, :, system] = h[system, :rows, column, : LENGTH - at].T
    if directions(layer) == 2:
        last = at - layer.options["reverse_lag"]
        y[: last + 1, :, system] += h[system, rows:, column, : last + 1].T[::-1]
    return y.reshape(LENGTH, -1)


def responses_agree(module: ModuleType, layer: Layer, tensors: dict[str, np.ndarray], h: np.ndarray, rtol: float):
    for channel in range(layer.systems * layer.inputs):
        for at in (0, LENGTH // 2):
            u = np.zeros((LENGTH, layer.systems * layer.inputs))
            u[at, channel] = 1
            y = module.forward(layer, arrays_of(layer, tensors), u)
            np.testing.assert_allclose(y, expected(layer, h, channel, at), rtol=0, atol=rtol * np.abs(h).max())


def rewritten(tensors: dict, layer: Layer, new: dict[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    """The checkpoint with a layer's new tensors: keys are roles, or full names of tensors the layer did not have."""
    out = dict(tensors)
    for key, x in new.items():
        name = layer.tensors.get(key, key)
        if x is None:
            del out[name]
            continue
        assert np.isfinite(x).all(), key
        stored = tensors[name].dtype if name in tensors else np.dtype(np.float32)
        assert np.iscomplexobj(x) <= (stored.kind == "c"), key
        with np.errstate(under="ignore"):
            out[name] = x.astype(stored)
        assert np.isfinite(out[name]).all(), key
    return out


def refusal(module: ModuleType, tensors: dict[str, TensorInfo], config: dict | None) -> str | None:
    """The FamilyError's message, None if the checkpoint is accepted."""
    try:
        module.layers(tensors, config)
    except FamilyError as error:
        return str(error)
    return None


def pole_values(rng: np.random.Generator, shape: tuple[int, ...], real: bool) -> np.ndarray:
    """Logarithms of stable poles. Among complex ones: a positive, a negative and a very fast pole in real slots."""
    a = -rng.uniform(0.05, 0.7, shape) + 1j * (0 if real else rng.uniform(-3, 3, shape))
    if real:
        a[..., 0] = np.log(1e-300)
        return a
    for system in range(shape[0]):
        a[system, system % max(shape[1] - 1, 1)] = (-0.2, -0.2 + 1j * np.pi, np.log(1e-300) + 0j)[system % 3]
    return a


def smaller_system(module: ModuleType, layer: Layer, tensors: dict[str, np.ndarray]) -> DiagonalSystem:
    """A system the family must be able to store: fewer slots, other weights, one slot of padding per system."""
    rng = np.random.default_rng(7)
    system = module.to_system(layer, arrays_of(layer, tensors))
    slots, real = layer.slots - 1, layer.constraints.real_poles
    S, m, p = layer.systems, layer.inputs, layer.outputs
    B, C = (rng.normal(size=s) + 1j * (0 if real else rng.normal(size=s)) for s in ((S, slots, m), (S, p, slots)))
    if layer.constraints.shared_poles and S > 1:
        a, B = system.a[:, 1:], system.B[:, 1:]
    else:
        a = pole_values(rng, (S, slots), real)
    if layer.constraints.real_poles:
        B, C = B.real + 0j, C.real + 0j
    C[:, :, -1] = 0
    return DiagonalSystem(a=a, B=B, C=C, D=system.D.copy(), real=layer.constraints.real_poles)


def test_module_is_complete():
    for family in FAMILIES:
        module = plugins.load(PACKAGE, family)
        assert isinstance(module.SUMMARY, str)
        assert "\n" not in module.SUMMARY
        assert isinstance(module.REFERENCE, str)
        assert len(set(module.VARIANTS)) == len(module.VARIANTS) > 0


@each_case
def test_layers_describe_the_system(family, variant):
    _, tensors, _, layers = loaded(family, variant)
    assert layers
    assert len({layer.name for layer in layers}) == len(layers)
    for layer in layers:
        assert layer.family == family
        assert set(layer.tensors.values()) <= set(tensors)


@each_linear
def test_systems_are_as_the_layers_say(family, variant):
    module, tensors, _, layers = loaded(family, variant)
    for layer in layers:
        system = module.to_system(layer, arrays_of(layer, tensors))
        assert (system.systems, system.inputs, system.outputs) == (layer.systems, layer.inputs, layer.outputs)
        assert system.order == layer.order
        parts = (system.a, system.B, system.C) if isinstance(system, DiagonalSystem) else (system.A, system.B, system.C)
        assert all(x.dtype == (np.complex128 if isinstance(system, DiagonalSystem) else np.float64) for x in parts)
        assert system.D.dtype == np.float64
        if isinstance(system, DiagonalSystem):
            assert system.slots == layer.slots
            assert system.real == layer.constraints.real_poles


@each_case
def test_only_its_family_claims_it(family, variant):
    _, tensors, config, _ = loaded(family, variant)
    for other in FAMILIES:
        claimed = plugins.load(PACKAGE, other).layers(infos(tensors), config)
        assert bool(claimed) == (other == family), other


@each_case
def test_tiny_is_seeded_and_layers_differ(family, variant):
    module, tensors, config, _ = loaded(family, variant)
    again, config_again = module.tiny(variant, 3)
    other, _ = module.tiny(variant, 4)
    assert config == config_again
    assert set(tensors) == set(again) == set(other)
    assert all(np.array_equal(x, again[name]) for name, x in tensors.items())
    assert any(not np.array_equal(x, other[name]) for name, x in tensors.items())


@each_linear
def test_impulse_response_is_what_the_layer_computes(family, variant):
    module, tensors, _, layers = loaded(family, variant)
    for layer in layers:
        h = impulse_response(module.to_system(layer, arrays_of(layer, tensors)), LENGTH)
        assert np.abs(h).max() > 1e-3
        responses_agree(module, layer, tensors, h, EXACT)


@each_linear
def test_round_trip_keeps_the_response(family, variant):
    module, tensors, config, layers = loaded(family, variant)
    for layer in layers:
        system = module.to_system(layer, arrays_of(layer, tensors))
        if not isinstance(system, DiagonalSystem):
            continue
        new = module.from_system(layer, arrays_of(layer, tensors), system)
        doubled = {name: x.astype(np.promote_types(x.dtype, np.float64)) for name, x in tensors.items()}
        back = rewritten({n: x if tensors[n].dtype.kind != "i" else tensors[n] for n, x in doubled.items()}, layer, new)
        found = {again.name: again for again in module.layers(infos(back), config)}[layer.name]
        h = impulse_response(system, LENGTH)
        again = impulse_response(module.to_system(found, arrays_of(found, back)), LENGTH)
        np.testing.assert_allclose(again, h, rtol=0, atol=EXACT * np.abs(h).max())


@each_linear
def test_a_smaller_layer_goes_back(family, variant):
    module, tensors, config, layers = loaded(family, variant)
    systems = {layer.name: smaller_system(module, layer, tensors) for layer in layers}
    back = tensors
    for layer in layers:
        back = rewritten(back, layer, module.from_system(layer, arrays_of(layer, tensors), systems[layer.name]))
    slots = layers[0].slots - 1
    config = None if config is None else module.reduced_config(config, layers[0], slots)
    found = module.layers(infos(back), config)
    assert [layer.name for layer in found] == [layer.name for layer in layers]
    for layer, old in zip(found, layers, strict=True):
        assert layer.slots == old.slots - 1
        assert (layer.systems, layer.inputs, layer.outputs) == (old.systems, old.inputs, old.outputs)
        if old.constraints.export:
            assert layer.variant == old.constraints.export
            assert layer.constraints.export == ""
        h = impulse_response(systems[layer.name], LENGTH)
        again = impulse_response(module.to_system(layer, arrays_of(layer, back)), LENGTH)
        np.testing.assert_allclose(again, h, rtol=0, atol=SINGLE * np.abs(h).max())
        responses_agree(module, layer, back, again, EXACT)
    untouched = set(tensors) - {name for layer in layers for name in layer.tensors.values()}
    assert untouched <= set(back)


@each_linear
def test_feedthrough_can_change(family, variant):
    module, tensors, config, layers = loaded(family, variant)
    layer = layers[0]
    system = smaller_system(module, layer, tensors)
    system = replace(system, D=1.25 * system.D)
    back = rewritten(tensors, layer, module.from_system(layer, arrays_of(layer, tensors), system))
    rows = {again.name: again for again in module.layers(infos(back), None if config is None else config)}
    h = module.to_system(rows[layer.name], arrays_of(rows[layer.name], back)).D
    np.testing.assert_allclose(h, system.D, rtol=SINGLE)


@each_case
def test_reduced_config_is_a_copy(family, variant):
    module, _, config, layers = loaded(family, variant)
    before = repr(config)
    after = module.reduced_config(config, layers[0], layers[0].slots - 1)
    assert repr(config) == before
    assert isinstance(after, dict)
    assert set(config or {}) <= set(after)


@each_case
@pytest.mark.parametrize("wrapper", ["module.", "module._orig_mod.", "_forward_module.model."])
def test_wrapper_prefixes_are_stripped(family, variant, wrapper):
    module, tensors, config, layers = loaded(family, variant)
    if any("/" in name for name in tensors):
        pytest.skip("a JAX parameter tree: these wrappers are PyTorch's")
    wrapped = {wrapper + name: x for name, x in tensors.items()}
    found = module.layers(infos(wrapped), config)
    assert [layer.name for layer in found] == [layer.name for layer in layers]
    assert [set(layer.tensors.values()) for layer in found] == [
        {wrapper + name for name in layer.tensors.values()} for layer in layers
    ]


@each_case
def test_names_do_not_depend_on_the_order_of_tensors(family, variant):
    module, tensors, config, layers = loaded(family, variant)
    shuffled = dict(sorted(tensors.items(), reverse=True))
    assert {x.name: dict(x.tensors) for x in module.layers(infos(shuffled), config)} == {
        x.name: dict(x.tensors) for x in layers
    }


@each_case
def test_shapes_that_do_not_fit_are_refused(family, variant):
    """Growing any axis of a layer's tensor is refused, or noticed where the size is free (the rank of full S4)."""
    module, tensors, config, layers = loaded(family, variant)
    for name in layers[0].tensors.values():
        refused = tensors[name].ndim == 0
        for axis in range(tensors[name].ndim):
            shape = list(tensors[name].shape)
            shape[axis] += 5
            wrong = infos(tensors) | {name: TensorInfo(tuple(shape), SAFETENSORS[str(tensors[name].dtype)])}
            message = refusal(module, wrong, config)
            if message is None:
                assert module.layers(wrong, config) != layers, (name, axis)
            else:
                refused = True
                assert name in message
                assert str(tuple(shape)) in message
        assert refused, name


@each_case
def test_an_empty_layer_is_refused(family, variant):
    module, tensors, config, layers = loaded(family, variant)
    names = set(layers[0].tensors.values())
    empty = {n: replace(t, shape=(0, *t.shape[1:])) if n in names and t.shape else t for n, t in infos(tensors).items()}
    with pytest.raises(FamilyError):
        module.layers(empty, config)
