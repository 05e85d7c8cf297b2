"""Layers on a Ray cluster of two workers: the same to the bit, and a worker that dies changes nothing.

Runs where Ray is installed: make test-ray.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ssmtool.cache import Cache
from ssmtool.errors import CheckpointError, EngineError, ReductionError, UsageError
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.engines import ray_cluster
from ssmtool.pipeline.engines.ray_cluster import RayCluster
from ssmtool.pipeline.layerwise import layerwise
from ssmtool.pipeline.model import load
from tests.pipeline.checkpoints import tiny, write_folder, written
from tests.pipeline.odd_work import OddWork

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """Two workers, a core each, for all tests of this file."""
    ray.init(
        address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield RayCluster()
    ray.shutdown()


@pytest.fixture
def model(tmp_path):
    """Two S4D layers."""
    return load(write_folder(tmp_path / "model", *tiny("s4d", "s4d")))


def odd(cluster, model, kinds, folder, **options):
    """The results of odd works on as many layers, taken in turns from the model's."""
    layers = [model.layers[i % len(model.layers)] for i in range(len(kinds))]
    works = [OddWork(kind, i, str(folder)) for i, kind in enumerate(kinds)]
    return layerwise(model, layers, works.__getitem__, cache=Cache(None), engine=cluster, **options)


def test_the_result_is_that_of_one_process_to_the_bit(cluster, model, tmp_path):
    seen = []
    one = model.hsv(device="cpu")
    two = model.hsv(device="cpu", engine=cluster, progress=lambda layer, done, total: seen.append((layer.name, done)))
    assert [entry.spectrum.sigma.tobytes() for entry in one] == [entry.spectrum.sigma.tobytes() for entry in two]
    assert sorted(seen) == [("s4_layers.0", 4), ("s4_layers.1", 4)]
    serial = compress(model, tmp_path / "one", rank=2, device="cpu")
    spread = compress(model, tmp_path / "two", rank=2, device="auto", engine=cluster)
    for name in ("model.safetensors", "README.md"):
        assert (written(serial) / name).read_bytes() == (written(spread) / name).read_bytes()


def test_a_worker_killed_in_the_middle_changes_nothing_and_warnings_arrive(cluster, model, tmp_path):
    kinds = ["plain", "die once", "warn", "plain", "plain", "plain"]
    with pytest.warns(UserWarning, match="mind the step"):
        assert odd(cluster, model, kinds, tmp_path) == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "note").exists()


def test_a_layer_that_kills_every_worker_is_an_error_that_says_so(cluster, model, tmp_path):
    with pytest.raises(EngineError, match=r"^s4_layers.1: the cluster could not work on it in 4 attempts"):
        odd(cluster, model, ["plain", "die"], tmp_path)


def test_of_several_errors_the_first_in_order_is_raised_whatever_came_first(cluster, model, tmp_path):
    with pytest.raises(ReductionError) as error:
        odd(cluster, model, ["refuse late", "refuse"], tmp_path)
    assert str(error.value) == "s4_layers.0: number 0 refuses. Ask another"


def test_an_error_nobody_foresaw_arrives_with_its_traceback(cluster, model, tmp_path):
    with pytest.raises(RuntimeError, match="Unsendable: quite broken") as error:
        odd(cluster, model, ["break"], tmp_path)
    assert "in compute" in str(error.value.__cause__)


def test_a_layer_that_cannot_be_read_is_the_same_error_and_the_others_are_kept(cluster, tmp_path):
    tensors, config = tiny("s4d", "s4d")
    tensors["s4_layers.1.kernel.C"][0, 0, 0] = float("nan")
    broken, lines = load(write_folder(tmp_path / "broken", tensors, config)), []
    for options in ({}, {"engine": cluster, "cache": Cache(tmp_path)}):
        with pytest.raises(CheckpointError) as error:
            broken.hsv(device="cpu", **options)
        lines.append(str(error.value))
    assert lines[0] == lines[1]
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_a_node_with_another_version_is_refused(cluster, model, monkeypatch):
    monkeypatch.setattr(ray_cluster, "version_of", lambda *packages: "another release")
    with pytest.raises(EngineError, match="another version of ssmtool"):
        model.hsv(device="cpu", engine=cluster)


def test_a_cluster_that_was_there_before_stays(cluster):
    cluster.close()
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("gpus", "asked", "found"),
    [(0, "auto", "cpu"), (0, "cpu", "cpu"), (4, "auto", "cuda"), (4, "cuda", "cuda"), (4, "cpu", "cpu")],
)
def test_layers_go_to_gpus_where_the_cluster_has_any(monkeypatch, gpus, asked, found):
    there = SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 8.0, "GPU": float(gpus)})
    monkeypatch.setattr(ray_cluster, "_ray", lambda: there)
    assert RayCluster().device(asked) == found


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    there = SimpleNamespace(is_initialized=lambda: True, cluster_resources=lambda: {"CPU": 8.0})
    monkeypatch.setattr(ray_cluster, "_ray", lambda: there)
    with pytest.raises(UsageError, match="the cluster has no GPU"):
        RayCluster().device("cuda")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_address_where_nothing_is_is_one_line_at_once(monkeypatch, address):
    there = SimpleNamespace(
        is_initialized=lambda: False, init=lambda **options: pytest.fail("Ray would try for minutes")
    )
    monkeypatch.setattr(ray_cluster, "_ray", lambda: there)
    with pytest.raises(EngineError, match=r"no Ray cluster can be used .* ray start --head"):
        RayCluster(address)
