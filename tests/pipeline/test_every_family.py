"""Load, look at the spectrum, compress and load again: every layout of every family, as files on disk."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pytest
from safetensors import safe_open

from ssmtool.checkpoint import open_checkpoint
from ssmtool.errors import ReductionError
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.compression import Compression
from ssmtool.pipeline.model import Model, load
from ssmtool.shown import markdown
from tests.pipeline.checkpoints import (
    CASES,
    README,
    measured_errors,
    raw,
    systems_of,
    tensors_of,
    tiny,
    write_folder,
    written,
)

RANK = 2
COPY = "kernel.kernel.A"  # S4 (V3) keeps A beside the tensors it is computed from


@pytest.fixture(scope="module", params=CASES, ids=[f"{f}-{v}" for f, v in CASES])
def pair(request, tmp_path_factory) -> tuple[Model, Compression, Model]:
    """A tiny model, what compressing it to rank 2 said, and the result loaded again."""
    family, variant = request.param
    folder = write_folder(tmp_path_factory.mktemp("pair") / "model", *tiny(family, variant))
    model = load(folder)
    done = compress(model, folder.with_name("smaller"), rank=RANK, device="cpu")
    return model, done, load(written(done))


def test_layers_are_found_again_smaller_and_of_the_same_family(pair):
    model, done, again = pair
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]
    for old, new, row in zip(model.layers, again.layers, done.layers, strict=True):
        assert row.layer == old
        assert new.family == old.family
        assert new.variant == (old.constraints.export or old.variant)
        assert new.slots == row.slots < old.slots
        assert (new.systems, new.inputs, new.outputs) == (old.systems, old.inputs, old.outputs)
        assert (row.orders <= RANK).all()


def test_names_and_dtypes_stay_but_for_an_export(pair):
    model, _, again = pair
    before, after = model.checkpoint.tensors, again.checkpoint.tensors
    allowed = {name for layer in model.layers if layer.constraints.export for name in layer.tensors.values()}
    allowed |= {name for layer in again.layers for name in layer.tensors.values()} if allowed else set()
    allowed |= {name for name in after if name.endswith(COPY)} if allowed else set()
    assert set(before) ^ set(after) <= allowed
    assert all(after[name].dtype == info.dtype for name, info in before.items() if name in after)


def test_everything_else_is_byte_identical(pair):
    model, done, _ = pair
    before, after = tensors_of(model.checkpoint.path), tensors_of(written(done))
    touched = {name for layer in model.layers for name in layer.tensors.values()}
    others = [name for name in before if name not in touched and not name.endswith(COPY)]
    assert others
    for name in others:
        assert raw(after[name]) == raw(before[name]), name


def test_the_feedthrough_stays(pair):
    model, _, again = pair
    for old, new in zip(model.layers, again.layers, strict=True):
        np.testing.assert_array_equal(again.system(new).D, model.system(old).D)


def test_config_has_the_new_size_and_nothing_else_changed(pair):
    model, done, again = pair
    old, new = model.checkpoint.config, again.checkpoint.config
    if old is None:
        assert new is None
        return
    assert new is not None
    assert set(old) <= set(new)
    numbers = {row.slots for row in done.layers} | {2 * row.slots for row in done.layers}
    changed = {key for key in old if old[key] != new[key]}
    flat = json.dumps({key: new[key] for key in changed})
    assert not changed or any(str(number) in flat for number in numbers)


def test_errors_are_those_of_the_two_files(pair):
    """From impulse responses of both files over 4096 steps: H2 to rounding, H-infinity to the width of the grid.

    Responses of an exact copy would differ by 1e-13 of their size, so errors are compared down to that.
    """
    model, done, again = pair
    family = model.layers[0].family
    one = systems_of(model.checkpoint.path, family, model.checkpoint.config)
    two = systems_of(written(done), family, again.checkpoint.config)
    for row in done.layers:
        h2, hinf, norm = measured_errors(one[row.layer.name][1], two[row.layer.name][1], 4096)
        np.testing.assert_allclose(row.h2_norm, norm, rtol=1e-9)
        np.testing.assert_allclose(row.h2, h2, rtol=1e-6, atol=1e-12 * norm.max())
        np.testing.assert_allclose(row.hinf, hinf, rtol=2e-3, atol=1e-11 * norm.max())
        assert row.h2_relative == pytest.approx((row.h2 / row.h2_norm).max())
        assert row.hinf_relative == pytest.approx((row.hinf / row.hankel_norm).max())


def test_errors_keep_the_bound_where_there_is_one(pair):
    """Storage rounds on top of it: poles and residues to 2^-24, a few of them, times the slowest pole's 100 steps."""
    _, done, _ = pair
    for row in done.layers:
        if not np.isnan(row.bound).any():
            assert (row.hinf <= row.bound * (1 + 1e-6) + 1e-4 * row.hankel_norm).all()


def test_hankel_norms_are_those_of_the_spectrum(pair):
    model, done, _ = pair
    for seen, row in zip(model.hsv(device="cpu"), done.layers, strict=True):
        np.testing.assert_allclose(row.hankel_norm, seen.spectrum.sigma[:, 0], rtol=1e-12)


def test_bytes_are_those_of_the_files(pair):
    model, done, again = pair
    assert done.bytes_before == model.checkpoint.data_bytes
    assert done.bytes_after == again.checkpoint.data_bytes
    change = sum(row.bytes_after - row.bytes_before for row in done.layers)
    assert done.bytes_after - done.bytes_before == change


def test_provenance_is_in_the_metadata_as_strict_json(pair):
    model, done, _ = pair
    with safe_open(written(done) / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert metadata["made"] == "for a test"

    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(metadata["ssmtool"], parse_constant=refuse)
    assert record["source_sha256"] == model.checkpoint.sha256() == done.source_sha256
    assert [entry["name"] for entry in record["layers"]] == [row.layer.name for row in done.layers]
    assert [entry["slots"] for entry in record["layers"]] == [row.slots for row in done.layers]


def test_companions_come_along_and_the_card_gains_a_section(pair):
    model, done, _ = pair
    assert (written(done) / "vocab.txt").read_bytes() == (model.checkpoint.path / "vocab.txt").read_bytes()
    card = (written(done) / "README.md").read_text()
    assert card.startswith(README)
    section = card.removeprefix(README)
    assert done.source_sha256 in section
    for row in done.layers:
        assert f"| {markdown(row.layer.name)} |" in section


def test_the_source_is_not_written_to(pair):
    model, done, _ = pair
    assert open_checkpoint(model.checkpoint.path).sha256() == done.source_sha256
    assert (model.checkpoint.path / "README.md").read_text() == README


def test_the_result_can_be_compressed_again(pair):
    """Down to a single slot; which real poles may not allow."""
    _, _, again = pair
    with suppress(ReductionError):
        rows = compress(again, None, rank=1, device="cpu", dry_run=True).layers
        assert all(row.slots == 1 for row in rows)
