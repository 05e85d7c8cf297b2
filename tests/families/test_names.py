"""Grouping tensors, naming layers, shapes, options."""

from __future__ import annotations

import pytest

from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import FamilyError
from ssmtool.families._names import complete, dimensions, groups, layer_names, option, resized


def test_groups_start_at_a_path_component():
    names = ["a.kernel.C", "a.D", "a.my_kernel.C", "kernel.C", "b/kernel.C", "akernel.C"]
    assert groups(names, "kernel.C", ("kernel.C", "D")) == {
        "a.": {"kernel.C": "a.kernel.C", "D": "a.D"},
        "": {"kernel.C": "kernel.C"},
        "b/": {"kernel.C": "b/kernel.C"},
    }


def test_prefixes_are_stripped_only_if_names_stay_unique():
    assert layer_names(["model.layers.0.", "model.layers.1."]) == {
        "model.layers.0.": "layers.0",
        "model.layers.1.": "layers.1",
    }
    assert layer_names(["model.a.", "net.a."]) == {"model.a.": "model.a", "net.a.": "net.a"}
    assert layer_names(["module._orig_mod.model.x."]) == {"module._orig_mod.model.x.": "x"}
    assert layer_names(["", "model."]) == {"": "layer", "model.": "model"}
    assert layer_names(["models.x."]) == {"models.x.": "models.x"}


def test_dimensions_name_all_shapes():
    tensors = {"p.C": TensorInfo((4, 3, 2), "F32"), "p.dt": TensorInfo((5,), "F32")}
    with pytest.raises(FamilyError, match=r"p\.dt has shape \(5,\).*p\.C \(4, 3, 2\), p\.dt \(5,\)"):
        dimensions(tensors, {"C": "p.C", "dt": "p.dt"}, {"C": "H N 2", "dt": "H"})
    assert dimensions(tensors, {"C": "p.C"}, {"C": "H N 2", "dt": "H"}) == {"H": 4, "N": 3}
    with pytest.raises(FamilyError, match=r"missing tensors: p\.D, p\.B"):
        complete("p.", {"C": "p.C"}, ("C", "D", "B"))


def test_options_are_found_at_the_top_or_one_level_down():
    config = {"disc": None, "layer": {"disc": "bilinear", "deep": {"x": 1}}, "d_state": 6}
    assert option(config, "disc", default="zoh") == "bilinear"
    assert option(config, "x", default="no") == "no"
    assert option(None, "disc", default="zoh") == "zoh"


def test_resizing_copies():
    config = {"d_state": 64, "N": True, "layer": {"d_state": 64, "name": "d_state"}, "d_model": 64}
    assert resized(config, ("d_state", "N"), 8) == {
        "d_state": 8,
        "N": True,
        "layer": {"d_state": 8, "name": "d_state"},
        "d_model": 64,
    }
    assert config["layer"] == {"d_state": 64, "name": "d_state"}
    assert resized(None, ("d_state",), 8) == {}
