"""Compressing a checkpoint: targets, selections, storage types, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssmtool.errors import CheckpointError, OutputError, ReductionError, SsmtoolError, UsageError
from ssmtool.lti.impulse import impulse_response
from ssmtool.lti.norms import difference, hinf_norm
from ssmtool.lti.split import split
from ssmtool.pipeline.compress import compress, default_output
from ssmtool.pipeline.model import load
from tests.pipeline.checkpoints import measured_errors, raw, systems_of, tensors_of, tiny, write_folder, written


def s4d(slots: int = 8, dtype: torch.dtype = torch.float32, decay: float = 0.3, spacing: float = np.pi):
    """Two S4D layers with S4D-Lin poles whose weights, and so Hankel singular values, decay; and their config."""
    rng = np.random.default_rng(0)
    channels, layers = 3, 2
    tensors = {"encoder.weight": torch.from_numpy(rng.standard_normal((channels, 2))).float()}
    for i in range(layers):
        at = f"layers.{i}."
        parts = {
            "D": rng.standard_normal(channels),
            "kernel.C": rng.standard_normal((channels, slots, 2)) * decay ** np.arange(slots)[:, None],
            "kernel.log_dt": np.log(rng.uniform(0.005, 0.05, channels)),
            "kernel.log_A_real": np.log(0.5 + rng.uniform(0, 0.1, (channels, slots))),
            "kernel.A_imag": spacing * (0.5 + np.arange(slots)) * np.ones((channels, 1)),
        }
        tensors |= {at + name: torch.from_numpy(x).to(dtype) for name, x in parts.items()}
    return tensors, {"d_model": channels, "d_state": 2 * slots}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model", *s4d())


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.parent.iterdir()}


def test_rank_counts_states_of_the_real_system(folder):
    done = compress(load(folder), folder.with_name("out"), rank=6, device="cpu")
    assert all((row.orders == 6).all() for row in done.layers)
    assert json.loads((written(done) / "config.json").read_text())["d_state"] == 2 * done.layers[0].slots


def test_budget_is_the_same_share_of_every_layer(folder):
    done = compress(load(folder), None, budget=0.25, device="cpu", dry_run=True)
    assert all((row.orders == 4).all() for row in done.layers)


def test_energy_keeps_that_share_of_the_sum(folder):
    model = load(folder)
    done = compress(model, None, energy=0.95, device="cpu", dry_run=True)
    for seen, row in zip(model.hsv(device="cpu"), done.layers, strict=True):
        for sigma, r in zip(seen.spectrum.sigma, row.orders, strict=True):
            assert sigma[:r].sum() >= 0.95 * sigma.sum()
            assert sigma[: r - 1].sum() < 0.95 * sigma.sum()


@pytest.mark.parametrize("target", [0.5, 0.1])
def test_an_error_target_holds_for_the_tensors_as_stored(folder, target):
    done = compress(load(folder), folder.with_name("out"), error=target, device="cpu")
    config = json.loads((folder / "config.json").read_text())
    one, two = systems_of(folder, "s4d", config), systems_of(written(done), "s4d", config)
    for row in done.layers:
        _, hinf, _ = measured_errors(one[row.layer.name][1], two[row.layer.name][1])
        assert (hinf <= target * row.hankel_norm).all()


def test_exactly_one_target(folder):
    model = load(folder)
    for given in ({}, {"rank": 2, "energy": 0.5}, {"rank": 2, "energy": 0.5, "error": 0.1, "budget": 0.5}):
        with pytest.raises(UsageError, match="exactly one"):
            compress(model, None, dry_run=True, **given)


@pytest.mark.parametrize(
    "given",
    [
        {"rank": 0}, {"rank": 17}, {"rank": -3}, {"energy": 0.0}, {"energy": 1.0}, {"energy": float("nan")},
        {"budget": 0.0}, {"budget": 1.0}, {"error": 0.0}, {"error": -1.0}, {"error": float("inf")},
        {"error": float("nan")},
    ],
)  # fmt: skip
def test_targets_out_of_range(folder, given):
    before = beside(folder)
    with pytest.raises(UsageError):
        compress(load(folder), None, device="cpu", **given)
    assert beside(folder) == before


def test_an_unknown_method_is_refused_with_the_known_ones(folder):
    with pytest.raises(UsageError, match=r"balanced, .*modal, .*subset, .*best"):
        compress(load(folder), None, rank=4, method="magic", dry_run=True)


@pytest.mark.parametrize("method", ["balanced", "modal", "subset"])
def test_every_method_writes_what_it_measured(folder, method):
    done = compress(load(folder), folder.with_name("out"), rank=6, method=method, device="cpu")
    assert {row.method for row in done.layers} == {method}
    config = json.loads((folder / "config.json").read_text())
    one, two = systems_of(folder, "s4d", config), systems_of(written(done), "s4d", config)
    for row in done.layers:
        h2, _, norm = measured_errors(one[row.layer.name][1], two[row.layer.name][1])
        np.testing.assert_allclose(row.h2 / row.h2_norm, h2 / norm, rtol=1e-6)


def test_a_dry_run_says_the_same_and_writes_nothing(folder):
    before = beside(folder)
    dry = compress(load(folder), None, rank=6, device="cpu", dry_run=True)
    assert beside(folder) == before
    assert dry.output is None
    wet = compress(load(folder), None, rank=6, device="cpu")
    assert (dry.bytes_after, dry.target) == (wet.bytes_after, wet.target)
    for one, two in zip(dry.layers, wet.layers, strict=True):
        np.testing.assert_array_equal(one.hinf, two.hinf)
        np.testing.assert_array_equal(one.orders, two.orders)


@pytest.mark.parametrize(("given", "word"), [({"rank": 6}, "rank6"), ({"budget": 0.5}, "budget0.5")])
def test_the_output_is_named_after_input_and_target(folder, given, word):
    assert compress(load(folder), None, device="cpu", **given).output == folder.with_name(f"model-{word}")


def test_the_output_of_a_file_is_a_file(folder):
    path = folder / "model.safetensors"
    assert default_output(load(path), "x") == folder / "model-x.safetensors"
    done = compress(load(path), None, rank=6, device="cpu")
    assert done.output == folder / "model-rank6.safetensors"
    assert [layer.name for layer in load(written(done)).layers] == ["layers.0", "layers.1"]


@pytest.mark.parametrize("wrap", ["state_dict", None])
def test_a_pickle_becomes_safetensors(tmp_path, wrap):
    tensors, _ = s4d()
    path = tmp_path / "last.pt"
    torch.save({wrap: tensors, "epoch": 3} if wrap else tensors, path)
    done = compress(load(path), None, rank=6, device="cpu")
    assert done.output == tmp_path / "last-rank6.safetensors"
    after = tensors_of(written(done))
    assert set(after) == set(tensors)
    assert raw(after["encoder.weight"]) == raw(tensors["encoder.weight"])


def test_an_output_that_exists_is_not_touched(folder):
    target = folder.with_name("out")
    target.mkdir()
    (target / "mine").write_text("keep")
    with pytest.raises(OutputError):
        compress(load(folder), target, rank=6, device="cpu")
    assert [path.name for path in target.iterdir()] == ["mine"]
    with pytest.raises(OutputError):
        compress(load(folder), folder, rank=6, device="cpu")


def test_only_selected_layers_change(folder):
    done = compress(load(folder), folder.with_name("out"), rank=6, layers=["layers.1"], device="cpu")
    assert [row.layer.name for row in done.layers] == ["layers.1"]
    before, after = tensors_of(folder), tensors_of(written(done))
    assert all(raw(before[name]) == raw(after[name]) for name in before if not name.startswith("layers.1.kernel"))
    assert [layer.slots for layer in load(written(done)).layers] == [8, done.layers[0].slots]


def uneven(tmp_path: Path) -> Path:
    """Two layers, of which the second hears only its first two modes."""
    tensors, config = s4d()
    tensors["layers.1.kernel.C"][:, 2:] = 0
    return write_folder(tmp_path / "model", tensors, config)


def test_layers_keep_one_size_unless_told_otherwise(tmp_path):
    folder = uneven(tmp_path)
    same = compress(load(folder), None, energy=0.99, device="cpu", dry_run=True)
    own = compress(load(folder), None, energy=0.99, per_layer=True, device="cpu", dry_run=True)
    assert same.layers[0].slots == same.layers[1].slots == own.layers[0].slots > own.layers[1].slots
    assert own.bytes_after < same.bytes_after
    np.testing.assert_allclose(same.layers[1].hinf, own.layers[1].hinf, rtol=1e-9)


def test_a_layer_that_cannot_shrink_is_left_as_it_is(tmp_path):
    folder = uneven(tmp_path)
    done = compress(load(folder), folder.with_name("out"), energy=1 - 1e-9, per_layer=True, device="cpu")
    first, second = done.layers
    assert (first.method, first.slots) == ("", 8)
    assert (first.hinf == 0).all()
    assert first.bytes_after == first.bytes_before
    assert second.slots < 8
    before, after = tensors_of(folder), tensors_of(written(done))
    assert all(raw(before[name]) == raw(after[name]) for name in before if name.startswith("layers.0"))


def test_nothing_smaller_is_an_error_that_says_what_smaller_would_cost(folder):
    before = beside(folder)
    with pytest.raises(ReductionError, match=r"no layer smaller.*8 of its 8 slots.*the best reachable with"):
        compress(load(folder), None, rank=16, device="cpu")
    assert beside(folder) == before


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float64, "F64")])
def test_storage_types_are_kept_and_their_rounding_is_measured(tmp_path, dtype, name):
    tensors, config = s4d(dtype=dtype)
    folder = write_folder(tmp_path / "model", tensors, config)
    done = compress(load(folder), None, rank=6, device="cpu")
    after = tensors_of(written(done))
    assert {tensor: t.dtype for tensor, t in after.items()} == {tensor: t.dtype for tensor, t in tensors.items()}
    one, two = systems_of(folder, "s4d", config), systems_of(written(done), "s4d", config)
    for row in done.layers:
        h2, _, _ = measured_errors(one[row.layer.name][1], two[row.layer.name][1])
        np.testing.assert_allclose(row.h2, h2, rtol=1e-6)
    assert load(written(done)).checkpoint.tensors["layers.0.kernel.C"].dtype == name


def test_an_error_below_the_rounding_of_storage_names_the_best_reachable(tmp_path):
    """bfloat16 keeps three digits; a target of 1e-6 is no one's fault and no one's to hide."""
    folder = write_folder(tmp_path / "model", *s4d(12, torch.bfloat16, decay=1, spacing=0.2))
    before = beside(folder)
    with pytest.raises(ReductionError, match=r"layers\.0: the error 1e-06 cannot be met: the best reachable is .*BF16"):
        compress(load(folder), None, error=1e-6, device="cpu")
    assert beside(folder) == before


def test_an_error_target_is_tightened_when_storage_rounds(tmp_path):
    """With the target at the rounding's own size the first choice of order may fail and a larger one hold."""
    folder = write_folder(tmp_path / "model", *s4d(12, torch.float16))
    done = compress(load(folder), None, error=0.05, per_layer=True, device="cpu", dry_run=True)
    assert all(row.hinf_relative <= 0.05 for row in done.layers)


def neutral(radius_log: float) -> dict[str, torch.Tensor]:
    """Two layers in the neutral layout; the second has a pole of the given log modulus."""
    rng = np.random.default_rng(0)
    tensors = {}
    for i in range(2):
        poles = -rng.uniform(0.05, 0.5, 4) + 1j * rng.uniform(0.2, 3, 4)
        if i == 1:
            poles[2] = radius_log + 1j
        parts = {"lambda_log": poles, "B": rng.standard_normal((4, 2)) + 0j, "C": rng.standard_normal((1, 4)) + 0j}
        tensors |= {f"block.{i}.{key}": torch.from_numpy(x).to(torch.complex64) for key, x in parts.items()}
    return tensors


@pytest.mark.parametrize("radius_log", [0.0, 0.25])
def test_states_that_are_not_stable_stay_and_the_stable_part_is_reduced(tmp_path, radius_log):
    path = tmp_path / "model.safetensors"
    save_file(neutral(radius_log), path)
    original = load(path)
    done = compress(original, None, rank=4, device="cpu")
    assert "2 states of 1 of 1 systems" in done.layers[1].remarks[0]
    assert (done.layers[1].orders <= 4).all()
    spectrum = original.hsv(["block.1"], device="cpu")[0].spectrum
    assert np.isinf(spectrum.sigma[0, :2]).all()
    small = load(written(done))
    (before, kept), (after, still) = (split(model.system(model.layers[1])) for model in (original, small))
    assert kept is not None
    assert still is not None
    # the unstable mode is the same up to the float32 it is stored in
    h, g = (impulse_response(part, 20) for part in (kept, still))
    np.testing.assert_allclose(g, h, rtol=0, atol=1e-5 * np.abs(h).max())
    error = hinf_norm(difference(before, after))
    assert (error <= 2 * spectrum.sigma[0, 4:].sum() * (1 + 1e-6) + 1e-5 * spectrum.sigma[0, 2]).all()


def test_weights_that_are_not_finite_leave_nothing_behind(tmp_path):
    tensors, config = s4d()
    tensors["layers.1.kernel.log_A_real"][1, 2] = float("nan")
    folder = write_folder(tmp_path / "model", tensors, config)
    with pytest.raises(CheckpointError, match="NaN"):
        compress(load(folder), None, rank=6, device="cpu")
    assert beside(folder) == {"model"}


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_wrapped_names_stay_wrapped(tmp_path, wrapper):
    tensors, config = s4d()
    folder = write_folder(tmp_path / "model", {wrapper + name: t for name, t in tensors.items()}, config)
    done = compress(load(folder), None, rank=6, device="cpu")
    assert set(tensors_of(written(done))) == {wrapper + name for name in tensors}
    assert [row.layer.name for row in done.layers] == ["layers.0", "layers.1"]


def test_a_shared_pole_layout_gets_a_subset_whatever_was_asked(tmp_path):
    folder = write_folder(tmp_path / "model", *tiny("dss", "exp"))
    done = compress(load(folder), None, rank=4, device="cpu", dry_run=True)
    assert {row.method for row in done.layers} == {"subset"}
    assert all(np.isnan(row.bound).all() and np.isnan(row.bound_relative) for row in done.layers)
    assert any("subset" in remark for row in done.layers for remark in row.remarks)


def test_silent_channels_are_no_division_by_zero(tmp_path):
    tensors, config = s4d()
    tensors["layers.0.kernel.C"][:] = 0
    tensors["layers.1.kernel.C"][1] = 0
    folder = write_folder(tmp_path / "model", tensors, config)
    done = compress(load(folder), None, rank=6, device="cpu")
    assert all(np.isfinite([row.hinf_relative, row.h2_relative, row.bound_relative]).all() for row in done.layers)
    assert done.layers[0].hinf_relative == 0


def test_results_do_not_depend_on_the_run(folder):
    one = compress(load(folder), folder.with_name("one"), rank=6, device="cpu")
    two = compress(load(folder), folder.with_name("two"), rank=6, device="cpu")
    first, second = (path / "model.safetensors" for path in (written(one), written(two)))
    assert first.read_bytes() == second.read_bytes()


def test_everything_refused_is_one_line(folder):
    with pytest.raises(SsmtoolError) as caught:
        compress(load(folder), None, rank=99, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_model_of_the_hub_cache_is_written_to_the_working_directory(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--someone--digits" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abcd")
    save_file(s4d()[0], snapshot / "model.safetensors")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    done = compress(load("someone/digits"), None, rank=2, device="cpu")
    assert done.output == Path("digits-rank2")
    assert (tmp_path / "digits-rank2" / "model.safetensors").is_file()
