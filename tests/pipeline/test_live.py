"""Models that run: which module holds a layer, what it is called with, and what a user's code may do wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssmtool.errors import CalibrationError, FamilyError, UsageError
from ssmtool.pipeline.blocks import captured
from ssmtool.pipeline.live import assemble, live_layers, load_build, outputs_of, places
from tests.pipeline.live_models import S4D_CODE, Neutral, Stack, built, s4d_state, sequences


def found(model, inputs=None):
    return places(model, live_layers(model), sequences(2) if inputs is None else inputs)


def test_a_layer_with_its_kernel_inside_is_its_own_block():
    model = built(s4d_state())
    assert [(p.layer.name, p.inner, p.block) for p in found(model)] == [
        (f"layers.{i}", f"layers.{i}", f"layers.{i}") for i in range(2)
    ]


@pytest.mark.parametrize("how", ["module", "keyword", "tuple"])
def test_block_and_layer_are_told_apart(how):
    assert [(p.inner, p.block) for p in found(Stack(how=how).eval())] == [
        (f"layers.{i}.ssm", f"layers.{i}") for i in range(2)
    ]


def test_a_layer_that_is_called_by_a_method_has_a_block_but_no_module_of_its_own():
    assert [(p.inner, p.block) for p in found(Stack(how="method").eval())] == [("", "layers.0"), ("", "layers.1")]


class Twins(nn.Module):
    """Two layers in one block, the second one called first."""

    def __init__(self, methods=False):
        super().__init__()
        self.inside = nn.Module()
        self.a, self.b, self.methods = Neutral(2, 3, 0), Neutral(2, 3, 1), methods

    def forward(self, x):
        return self.a.run(self.b.run(x)) if self.methods else self.a(self.b(x))


def test_two_layers_in_one_block_are_their_own_blocks_in_the_order_of_calls():
    model = nn.Sequential(Twins()).eval()
    assert [p.block for p in found(model)] == ["0.b", "0.a"]


def test_two_layers_called_by_methods_in_one_block_are_refused():
    with pytest.raises(FamilyError, match="Call the layer as a module"):
        found(nn.Sequential(Twins(methods=True)).eval())


def test_inputs_that_the_model_does_not_take_are_one_line():
    with pytest.raises(CalibrationError, match=r"does not run on calibration inputs of shape \(2, 20, 5\)") as caught:
        found(built(s4d_state()), sequences(2, inputs=5))
    assert "\n" not in str(caught.value)


class Odd(nn.Module):
    """A block with arguments of all kinds, as long as there are sequences or not."""

    def forward(self, x, table, *, flag, pair):
        return (x + table + pair[0].unsqueeze(-1), flag)


class OddModel(nn.Module):
    table: torch.Tensor

    def __init__(self, length):
        super().__init__()
        self.block = Odd()
        self.register_buffer("table", torch.randn(length, 2))

    def forward(self, u):
        return self.block(u, self.table, flag="on", pair=(u.sum(-1), 3))[0]


@pytest.mark.parametrize("batch", [1, 4, 6, 100])
def test_arguments_with_one_entry_per_sequence_are_told_from_those_of_the_same_length(batch):
    """Six sequences of six steps: the table has six rows too, and is no per-sequence tensor."""
    model, data = OddModel(6), sequences(6, 6)
    calls = captured(model, "block", data, batch)
    chosen = torch.tensor([4, 1])
    (x, table), named = calls.at(chosen)
    assert torch.equal(x, data[chosen])
    assert torch.equal(table, model.table)
    assert named["flag"] == "on"
    assert torch.equal(named["pair"][0], data[chosen].sum(-1))
    assert named["pair"][1] == 3
    assert torch.equal(calls.output, model(data))
    assert torch.equal(model.block(x, table, **named)[0], model(data)[chosen])


def test_outputs_are_found_in_tuples_and_logits():
    x = torch.ones(2)
    assert outputs_of((torch.arange(3), x)) is x
    assert outputs_of(type("Output", (), {"logits": x})()) is x
    with pytest.raises(FamilyError, match="no tensor of real numbers"):
        outputs_of("nothing")


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        ("model.txt:build", "", "is not FILE.py:FUNCTION"),
        ("model.py", "", "is not FILE.py:FUNCTION"),
        ("absent.py:build", "", "no such file"),
        ("model.py:make", "build = 1", "no function 'make'"),
        ("model.py:build", "build = 1", "no function 'build'"),
        ("model.py:build", "import nothing_like_it", "ModuleNotFoundError"),
        ("model.py:build", "raise ValueError('a\\nb')", "ValueError: a"),
    ],
)
def test_code_that_does_not_load_is_one_line(tmp_path, code, text, reason):
    (tmp_path / "model.py").write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        load_build(str(tmp_path / code) if "/" not in code else code)
    assert "\n" not in str(caught.value)


def test_code_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "parts_beside.py").write_text(S4D_CODE)
    (tmp_path / "model.py").write_text("from parts_beside import build as make\n")
    model = assemble(s4d_state(), load_build(f"{tmp_path / 'model.py'}:make"), "x")
    assert not model.training
    assert len(live_layers(model)) == 2


@pytest.mark.parametrize(
    ("build", "reason"), [(lambda state: 3, "returned int"), (lambda state: state["none"], "KeyError: 'none'")]
)
def test_code_that_makes_no_model_is_one_line(build, reason):
    with pytest.raises(UsageError, match=reason):
        assemble(s4d_state(), build, "x")


def test_builds_get_single_precision():
    seen = {}
    state = {
        "x": torch.zeros(2, dtype=torch.float64),
        "z": torch.zeros(2, dtype=torch.complex128),
        "n": torch.arange(2),
    }

    def build(tensors):
        seen.update({name: x.dtype for name, x in tensors.items()})
        return nn.Linear(1, 1)

    assemble(state, build, "x")
    assert seen == {"x": torch.float32, "z": torch.complex64, "n": torch.int64}


def test_a_model_without_known_tensors_says_what_to_do():
    with pytest.raises(FamilyError, match="--model-code"):
        assemble({"w": torch.zeros(1)}, None, "x")
    with pytest.raises(FamilyError, match="no linear time-invariant"):
        live_layers(nn.Linear(2, 2))
