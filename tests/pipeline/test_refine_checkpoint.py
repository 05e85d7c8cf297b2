"""compress --refine: every reference layout, the user's own model, storage types, and going on after a kill."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssmtool.errors import CalibrationError, FamilyError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.inputs import read_inputs
from ssmtool.pipeline.live import load_build
from ssmtool.pipeline.model import load
from ssmtool.pipeline.refine import Refinement, RefineOptions
from ssmtool.pipeline.resume import Resume
from ssmtool.pipeline.validate import validate
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import build, create, layouts
from tests.pipeline.checkpoints import raw, tensors_of, written
from tests.pipeline.live_models import S4D_CODE, s4d_state, sequences

OPTIONS = RefineOptions(steps=20, final=20, batch=24, outputs="classes")
DATA = sequences(40, 20).numpy()


def reference(folder, layout, dtype=torch.float32, slots=6):
    folder.mkdir(exist_ok=True)
    model = create(layout, Sizes(2, 4, 3, (slots, slots)), seed=1)
    path = folder / f"{layout}.safetensors"
    save_file({name: x.detach().to(dtype).contiguous() for name, x in model.state_dict().items()}, path)
    return path


def own(folder, prefix=""):
    """A checkpoint that only the user's code can run, and that code."""
    folder.mkdir(exist_ok=True)
    save_file({prefix + name: x.contiguous() for name, x in s4d_state().items()}, folder / "own.safetensors")
    (folder / "model.py").write_text(S4D_CODE)
    return folder / "own.safetensors", load_build(f"{folder / 'model.py'}:build")


def refined(path, output, **options):
    given = {"rank": 4, "inputs": DATA, "refine": OPTIONS, "device": "cpu"} | options
    return compress(load(path), output, **given)


def reached(done, which="refinement") -> Refinement:
    """What the fit, or its control, reached."""
    found = getattr(done, which)
    assert found is not None
    return found


def state_tensors(path):
    found: tuple[Layer, ...] = load(path).layers
    return {name for layer in found for name in layer.tensors.values()}


def divergence(one, other, data):
    with torch.no_grad():
        p, q = (build(tensors_of(path))(data).double().log_softmax(-1) for path in (one, other))
    return (p.exp() * (p - q)).sum(-1).mean().item()


@pytest.mark.parametrize("layout", layouts())
def test_reference_models_come_closer_and_only_state_spaces_differ(tmp_path, layout):
    path = reference(tmp_path, layout)
    plain = written(compress(load(path), tmp_path / "plain.safetensors", rank=4, device="cpu"))
    done = refined(path, tmp_path / "out.safetensors")
    output, before = tensors_of(written(done)), tensors_of(path)
    ours = state_tensors(path)
    assert set(output) == set(before)
    assert all(raw(output[name]) == raw(before[name]) for name in set(before) - ours)
    assert all(output[name].dtype == before[name].dtype for name in before)
    assert reached(done).outputs.after < reached(done).outputs.before
    fresh = sequences(60, 20, seed=11)
    assert divergence(path, written(done), fresh) < divergence(path, plain, fresh)
    assert [row.refined for row in done.layers] == [True, True]
    assert {row.slots for row in done.layers} == {2}
    assert all((row.orders == 4).all() and np.isnan(row.bound).all() for row in done.layers)
    again = load(written(done))
    assert [layer.slots for layer in again.layers] == [2, 2]


def test_what_is_reported_is_what_is_in_the_file(tmp_path):
    """The divergence on the held-out sequences, from the written file; errors of the layers, from both files."""
    path = reference(tmp_path, "s4d")
    done = refined(path, tmp_path / "out.safetensors")
    judging = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:4]
    data = torch.from_numpy(DATA)[judging]
    assert reached(done).outputs.after == pytest.approx(divergence(path, written(done), data), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_storage_types_stay_and_what_did_not_move_is_untouched(tmp_path, dtype):
    path = reference(tmp_path, "s4d", dtype)
    done = refined(path, tmp_path / "out.safetensors")
    output, before = tensors_of(written(done)), tensors_of(path)
    assert all(output[name].dtype == dtype for name in output)
    steps = [name for name in before if name.endswith("log_dt")]
    assert all(raw(output[name]) == raw(before[name]) for name in steps)
    assert reached(done).outputs.after < reached(done).outputs.before


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_model_of_the_users_own_code(tmp_path, prefix):
    path, code = own(tmp_path, prefix)
    done = refined(
        path, tmp_path / "out.safetensors", build=code, refine=dataclasses.replace(OPTIONS, outputs="values")
    )
    output, before = tensors_of(written(done)), tensors_of(path)
    assert set(output) == set(before)
    model, original = code(output).eval(), code(before).eval()
    judging = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:4]
    with torch.no_grad():
        data = torch.from_numpy(DATA)
        wanted = original(data).double()
        error = (model(data[judging]) - wanted[judging]).square().mean() / wanted.var(correction=0)
    assert reached(done).outputs.after == pytest.approx(error.item(), rel=1e-3)
    assert reached(done).outputs.after < 0.5 * reached(done).outputs.before
    changed = {name for name in before if raw(output[name]) != raw(before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"C", "D", "log_A_real", "A_imag"}


@pytest.mark.parametrize("method", ["balanced", "best"])
def test_any_method_can_be_the_start_and_calibrated_ones_see_the_inputs(tmp_path, method):
    path, code = own(tmp_path)
    done = refined(path, None, build=code, method=method, dry_run=True)
    assert all(bool(row.tried) == (method == "best") for row in done.layers)
    assert done.output is None
    assert not list(tmp_path.glob(".*"))


class Killed(BaseException):
    pass


def killer(name, at):
    def step(what, done, total):
        if (what, done) == (name, at):
            raise Killed

    return step


@pytest.mark.parametrize(("name", "at"), [("encoder.layers_0.seq", 11), ("encoder.layers_1.seq", 2), ("model", 5)])
def test_going_on_after_a_kill_gives_the_same_bytes(tmp_path, name, at):
    path = reference(tmp_path, "lru")
    whole = written(refined(path, tmp_path / "whole.safetensors"))
    target = tmp_path / "again.safetensors"
    with pytest.raises(Killed):
        refined(path, target, step=killer(name, at))
    assert not target.exists()
    assert [x.name for x in tmp_path.glob(".*")] == [".again.safetensors.refine"]
    told = []
    again = written(refined(path, target, step=lambda *what: told.append(what)))
    assert again.read_bytes() == whole.read_bytes()
    assert len(told) < 60 + 3
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 6},
        {"inputs": DATA[:30]},
        {"refine": dataclasses.replace(OPTIONS, seed=1)},
        {"refine": dataclasses.replace(OPTIONS, steps=30)},
        {"method": "modal"},
        {"pad_to": 4},
        {"layers": ["*layers_0*"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_settings_after_a_kill_are_refused(tmp_path, change):
    path, target = reference(tmp_path, "lru"), tmp_path / "out.safetensors"
    with pytest.raises(Killed):
        refined(path, target, step=killer("model", 5))
    left = (tmp_path / ".out.safetensors.refine").read_bytes()
    with pytest.raises(UsageError, match="an interrupted refinement of this output had") as caught:
        refined(path, target, **change)
    assert "\n" not in str(caught.value)
    assert (tmp_path / ".out.safetensors.refine").read_bytes() == left
    assert not target.exists()


def test_other_code_after_a_kill_is_refused(tmp_path):
    path, code = own(tmp_path)
    with pytest.raises(Killed):
        refined(path, tmp_path / "out.safetensors", build=code, step=killer("model", 5))
    (tmp_path / "model.py").write_text(S4D_CODE.replace("torch.tanh", "torch.sin"))
    code = load_build(f"{tmp_path / 'model.py'}:build")
    with pytest.raises(UsageError, match="model code"):
        refined(path, tmp_path / "out.safetensors", build=code)


def test_a_damaged_state_is_refused(tmp_path):
    path = reference(tmp_path, "lru")
    (tmp_path / ".out.safetensors.refine").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="cannot be read"):
        refined(path, tmp_path / "out.safetensors")


def test_unstable_states_are_kept_through_a_refinement(tmp_path):
    path = reference(tmp_path, "s5")
    tensors = tensors_of(path)
    tensors["encoder.layers_0.seq.Lambda_re"][0] = 0.05  # grows by a factor of 1.1 at most over 20 steps
    save_file(tensors, path)
    done = refined(path, tmp_path / "out.safetensors")
    after = tensors_of(written(done))["encoder.layers_0.seq.Lambda_re"]
    assert (after > 0).sum() == 1
    assert reached(done).outputs.after < reached(done).outputs.before
    assert any(fit.fit.after < fit.fit.before for fit in reached(done).layers)
    assert "kept as they are" in done.layers[0].remarks[0]
    found = validate(load(path), load(written(done)), length=20).layers[0]
    assert (found.unstable, found.reason) == ((2, 2), "")
    assert found.unstable_deviation is not None
    assert found.unstable_deviation > 1e-5  # its weights were fitted, its pole was not


def test_silent_channels_are_no_error(tmp_path):
    path = reference(tmp_path, "s4d")
    tensors = tensors_of(path)
    tensors["s4_layers.0.kernel.C"][1] = 0
    save_file(tensors, path)
    assert refined(path, tmp_path / "out.safetensors").refinement is not None


def test_the_control_is_reported_and_changes_nothing(tmp_path):
    path = reference(tmp_path, "hankelreg")
    plain = written(refined(path, tmp_path / "plain.safetensors"))
    done = refined(path, tmp_path / "out.safetensors", control=True)
    assert written(done).read_bytes() == plain.read_bytes()
    assert reached(done, "control").outputs.before == pytest.approx(reached(done).outputs.before, rel=1e-4)
    assert reached(done, "control").outputs.after <= reached(done, "control").outputs.before
    assert reached(done, "control").layers != reached(done).layers


def test_code_that_drops_a_layer_is_refused(tmp_path):
    path, _ = own(tmp_path)
    (tmp_path / "other.py").write_text(
        S4D_CODE.replace(
            "model = Model(state)",
            "state = {k: v for k, v in state.items() if '.1.' not in k}\n    model = Model(state)",
        )
    )
    with pytest.raises(FamilyError, match=r"layers\.1"):
        refined(path, tmp_path / "out.safetensors", build=load_build(f"{tmp_path / 'other.py'}:build"))
    assert sorted(x.name for x in tmp_path.iterdir()) == ["model.py", "other.py", "own.safetensors"]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((4, 5, 2), np.float32), "zero variance"),
        (np.zeros((1, 5, 2), np.float32), "not several sequences"),
        (np.full((4, 5, 2), np.nan, np.float32), "not finite"),
        (np.array([["a", "b"], ["c", "d"]]), "not numbers"),
        (np.zeros((4, 1, 2), np.float32), "1 steps"),
    ],
)
def test_inputs_that_determine_nothing_are_refused(tmp_path, array, reason):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(CalibrationError, match=reason):
        read_inputs(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "content",
    [
        7,
        [1],
        {"settings": {}},
        {"settings": {}, "states": [1]},
        {"settings": {}, "states": {"a": 1}},
        torch.zeros(2),
        None,
    ],
    ids=lambda content: type(content).__name__,
)
def test_what_is_no_state_of_a_refinement_is_refused(tmp_path, content):
    path = tmp_path / ".out.refine"
    if content is None:
        path.write_bytes(b"PK\x03\x04 and no more")
    else:
        torch.save(content, path)
    with pytest.raises(UsageError, match=r"\.refine: what an interrupted refinement left cannot be read: it ") as error:
        Resume(path, {"target": "rank 4"})
    assert "Delete the file" in error.value.line()
