"""Layers in processes: the same to the bit as without, whatever becomes of a process, and none is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssmtool.cache import Cache
from ssmtool.errors import CheckpointError, EngineError, ReductionError, SsmtoolError, UsageError
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.engines import local
from ssmtool.pipeline.engines.processes import Processes
from ssmtool.pipeline.layerwise import layerwise
from ssmtool.pipeline.model import load
from tests.pipeline.checkpoints import tiny, write_folder, written
from tests.pipeline.odd_work import OddWork

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path):
    """Two S4D layers."""
    return load(write_folder(tmp_path / "model", *tiny("s4d", "s4d")))


def odd(model, kinds, folder, jobs=2, **options):
    """The results of odd works on as many layers, taken in turns from the model's."""
    layers = [model.layers[i % len(model.layers)] for i in range(len(kinds))]
    works = [OddWork(kind, i, str(folder)) for i, kind in enumerate(kinds)]
    return layerwise(model, layers, works.__getitem__, cache=Cache(None), engine=Processes(jobs), **options)


def test_the_result_does_not_depend_on_the_number_of_jobs(model, tmp_path):
    seen = []
    one = model.hsv(device="cpu")
    two = model.hsv(device="cpu", jobs=2, progress=lambda layer, done, total: seen.append((layer.name, done, total)))
    assert [entry.spectrum.sigma.tobytes() for entry in one] == [entry.spectrum.sigma.tobytes() for entry in two]
    assert [entry.layer for entry in one] == [entry.layer for entry in two]
    assert {("s4_layers.0", 4, 4), ("s4_layers.1", 4, 4)} <= set(seen)
    serial = compress(model, tmp_path / "one", rank=2, device="cpu")
    spread = compress(model, tmp_path / "two", rank=2, device="cpu", jobs=2)
    for name in ("model.safetensors", "README.md"):
        assert (written(serial) / name).read_bytes() == (written(spread) / name).read_bytes()


def test_a_process_that_is_killed_changes_nothing_and_warnings_arrive(model, tmp_path):
    with pytest.warns(UserWarning, match="mind the step"):
        assert odd(model, ["plain", "die once", "warn", "plain", "plain"], tmp_path) == [0, 1, 2, 3, 4]
    assert (tmp_path / "note").exists()


def test_a_layer_that_kills_every_process_is_an_error_that_says_so(model, tmp_path):
    with pytest.raises(
        EngineError, match=r"s4_layers.1: processes that .* killed, twice \(signal 9\)\. .*fewer --jobs"
    ):
        odd(model, ["plain", "die"], tmp_path)


def test_of_several_errors_the_first_in_order_is_raised_whatever_came_first(model, tmp_path):
    with pytest.raises(ReductionError) as error:
        odd(model, ["refuse late", "refuse"], tmp_path)
    assert str(error.value) == "s4_layers.0: number 0 refuses. Ask another"
    assert (error.value.what, error.value.where, error.value.remedy) == (
        "number 0 refuses",
        "s4_layers.0",
        "Ask another",
    )


def test_an_error_nobody_foresaw_arrives_with_its_traceback(model, tmp_path):
    with pytest.raises(RuntimeError, match="Unsendable: quite broken") as error:
        odd(model, ["break"], tmp_path)
    assert "in compute" in str(error.value.__cause__)


def test_a_layer_that_cannot_be_read_is_the_same_error_and_the_others_are_kept(tmp_path):
    tensors, config = tiny("s4d", "s4d")
    tensors["s4_layers.1.kernel.C"][0, 0, 0] = float("nan")
    broken, lines = load(write_folder(tmp_path / "broken", tensors, config)), []
    for jobs, cache in ((1, Cache(None)), (2, Cache(tmp_path))):
        with pytest.raises(CheckpointError) as error:
            broken.hsv(device="cpu", jobs=jobs, cache=cache)
        lines.append(str(error.value))
    assert lines[0] == lines[1]
    assert len(list((tmp_path / "results").iterdir())) == 1


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_process_is_not_enough(jobs):
    with pytest.raises(UsageError, match="--jobs"):
        local(jobs)


def test_errors_survive_the_way_between_processes():
    import pickle

    for kind in (SsmtoolError, *SsmtoolError.__subclasses__()):
        error = kind("what", where="where", remedy="remedy")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.what, again.where, again.remedy, str(again)) == ("what", "where", "remedy", str(error))


SLEEPER = """
import signal, sys
from tests.pipeline.test_processes import load, odd
from ssmtool.cli import run
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    run._invoke = lambda args: odd(load(args[0]), ["sleep", "sleep"], args[1])
    sys.exit(run.run(sys.argv[1:]))
"""


@pytest.mark.parametrize(("stop", "everybody", "code", "said"), [
    (signal.SIGINT, True, 130, "ssmtool: error: interrupted\n"),
    (signal.SIGKILL, False, -signal.SIGKILL, ""),
], ids=["Ctrl-C", "kill -9"])  # fmt: skip
def test_when_the_command_ends_so_does_every_process(model, tmp_path, stop, everybody, code, said):
    """Ctrl-C reaches every process of the terminal; a kill only the one it is meant for."""
    (tmp_path / "main.py").write_text(SLEEPER)
    command = subprocess.Popen(
        [sys.executable, tmp_path / "main.py", model.checkpoint.path, tmp_path],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = []
    while len(workers) < 2 and command.poll() is None:
        time.sleep(0.05)
        workers = [int(path.name.split()[1]) for path in tmp_path.glob("asleep *")]
    (os.killpg if everybody else os.kill)(command.pid, stop)
    assert command.communicate(timeout=300)[1] == said
    assert command.returncode == code
    deadline = time.monotonic() + 60
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a process outlived the command"
        time.sleep(0.05)


def alive(process):
    """Whether it runs; one that ended and that nobody waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
