"""Reductions kept by content: the same checkpoint to the byte, the same numbers to the bit, and nothing mixed up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssmtool import plugins
from ssmtool.cache import Cache
from ssmtool.errors import ReductionError
from ssmtool.pipeline import reduction_work
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.methods import BEST, How
from ssmtool.pipeline.model import load
from ssmtool.pipeline.reduction_work import ReductionWork, layout
from ssmtool.reductions._contract import Seen, Target
from tests.pipeline.checkpoints import CASES, tiny, write_folder, written

METHODS = plugins.names("ssmtool.reductions")
NEEDS = {"horizon": {"horizon": 30}, "band": {"band": (0.1, 2.0)}}
FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def computed(monkeypatch):
    """Names of the layers that were reduced, not looked up."""
    names, compute = [], ReductionWork.compute

    def counted(self, model, layer, step):
        names.append(layer.name)
        return compute(self, model, layer, step)

    monkeypatch.setattr(ReductionWork, "compute", counted)
    return names


def bits(row):
    """A LayerReduction whose arrays are compared to the bit, NaN included."""
    return {name: (x.dtype, x.shape, x.tobytes()) if isinstance(x, np.ndarray) else x for name, x in vars(row).items()}


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_every_family_is_written_the_same_to_the_byte(tmp_path, computed, family, variant):
    model = load(write_folder(tmp_path / "model", *tiny(family, variant)))
    caches = {"without": Cache(None), "first": Cache(tmp_path / "kept"), "again": Cache(tmp_path / "kept")}
    done = {}
    for name, cache in caches.items():
        del computed[:]
        done[name] = compress(model, tmp_path / name, rank=2, device="cpu", cache=cache)
    assert not computed
    outputs = [files(written(one)) for one in done.values()]
    assert outputs[0] == outputs[1] == outputs[2]
    rows = [[bits(row) for row in one.layers] for one in done.values()]
    assert rows[0] == rows[1] == rows[2]


FREE = [name for name in METHODS if "seen" not in plugins.load("ssmtool.reductions", name).NEEDS]


@pytest.mark.parametrize("method", [*FREE, BEST])
def test_every_method_gives_the_same_numbers_to_the_bit(tmp_path, computed, method):
    model = load(write_folder(tmp_path / "model", *tiny("neutral", "siso")))
    asked = {"rank": 4, "method": method, "dry_run": True, "device": "cpu"}
    needs = () if method == BEST else plugins.load("ssmtool.reductions", method).NEEDS
    for need in needs:
        asked |= NEEDS[need]
    without, first, again = (compress(model, None, **asked, cache=Cache(x)) for x in (None, tmp_path, tmp_path))
    assert len(computed) == 2 * len(model.layers)
    assert [bits(row) for row in without.layers] == [bits(row) for row in first.layers]
    assert [bits(row) for row in without.layers] == [bits(row) for row in again.layers]


def test_calibrated_methods_are_kept_by_their_inputs(tmp_path, computed):
    model, inputs = load(FIXTURES / "digits-s4d.safetensors"), np.load(FIXTURES / "digits-calibration.npy")[:4]
    asked = {"rank": 16, "method": "input_weighted", "layers": ["s4_layers.0"], "dry_run": True, "device": "cpu"}
    without, first, again = (
        compress(model, None, **asked, inputs=inputs, cache=Cache(x)) for x in (None, tmp_path, tmp_path)
    )
    assert len(computed) == 2
    assert bits(without.layers[0]) == bits(first.layers[0]) == bits(again.layers[0])
    other = compress(model, None, **asked, inputs=2 * inputs[:2], cache=Cache(tmp_path))
    assert len(computed) == 3
    assert bits(other.layers[0]) != bits(first.layers[0])


def work(**changes):
    return replace(ReductionWork(Target("rank", 4), How(), None, "cpu", "layout"), **changes)


def test_all_that_is_asked_for_is_in_the_key(monkeypatch):
    inputs = np.ones((1, 2, 3, 1))
    others = [
        work(target=Target("rank", 5)), work(target=Target("energy", 4.0)),
        work(target=Target("rank", np.array([4, 4]))),
        work(how=How("modal")), work(how=How(score="h2")), work(how=How(horizon=9)), work(how=How(band=(0.0, 1.0))),
        work(how=How(residues=True)), work(how=How(least_slots=True)), work(how=How(by_name=False)),
        work(seen=Seen(inputs)), work(seen=Seen(2 * inputs)), work(seen=Seen(inputs, np.ones((2, 1, 1)))),
        work(device="cuda"), work(layout="other"),
    ]  # fmt: skip
    keys = {work().key("content"), work().key("other content"), *(one.key("content") for one in others)}
    assert len(keys) == 2 + len(others)
    assert work(device="cuda:1").key("content") == work(device="cuda").key("content")
    monkeypatch.setattr(reduction_work, "VERSION", reduction_work.VERSION + 1)
    assert work().key("content") not in keys
    monkeypatch.setattr(reduction_work, "version_of", lambda *packages: "another release")
    assert work().key("content") not in keys


def test_headers_and_configuration_are_the_layout_and_values_are_not(tmp_path):
    tensors, config = tiny("s4d", "s4d")
    one = layout(load(write_folder(tmp_path / "one", tensors, config)))
    assert one == layout(load(write_folder(tmp_path / "two", {n: x + 1 for n, x in tensors.items()}, config)))
    assert one != layout(load(write_folder(tmp_path / "three", {n: x.double() for n, x in tensors.items()}, config)))
    assert one != layout(load(write_folder(tmp_path / "four", tensors, {**(config or {}), "more": 1})))


def test_another_target_is_computed_again(tmp_path, computed):
    model, cache = load(write_folder(tmp_path / "model", *tiny("neutral", "siso"))), Cache(tmp_path)
    asked = {"dry_run": True, "device": "cpu", "cache": cache}
    for target in ({"rank": 4}, {"rank": 5}, {"energy": 0.5}, {"error": 0.5}, {"budget": 0.25}):
        del computed[:]
        compress(model, None, **target, **asked)
        assert computed
        del computed[:]
        compress(model, None, **target, **asked)
        assert not computed


def test_what_cannot_be_reached_is_an_error_again(tmp_path, computed):
    model, cache = load(write_folder(tmp_path / "model", *tiny("neutral", "siso"))), Cache(tmp_path)
    lines = []
    for _ in range(2):
        with pytest.raises(ReductionError) as error:
            compress(model, None, error=1e-30, dry_run=True, device="cpu", cache=cache)
        lines.append(str(error.value))
    assert lines[0] == lines[1]


def test_an_entry_of_another_kind_is_computed_again(tmp_path, computed):
    model, cache = load(write_folder(tmp_path / "model", *tiny("neutral", "siso"))), Cache(tmp_path)
    without = compress(model, None, rank=4, dry_run=True, device="cpu")
    key = work(layout=layout(model), how=How(by_name=False)).key(model.content(model.layers[0]))
    compress(model, None, rank=4, dry_run=True, device="cpu", cache=cache)
    assert cache.get(key) is not None  # the key a command makes; what follows would prove nothing with another
    for wrong in (b"", b"{}", b'{"method": 1}', b"\xff"):
        cache.put(key, {"facts": np.frombuffer(wrong, np.uint8)})
        found = compress(model, None, rank=4, dry_run=True, device="cpu", cache=cache)
        assert [bits(row) for row in found.layers] == [bits(row) for row in without.layers]
