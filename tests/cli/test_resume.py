"""hsv, compress, check and report killed at random moments go on from what they kept, and end with the same bytes.

PyTorch takes longer to load than the work takes, so one process loads it and forks a child for every run. Children are
killed with SIGKILL after a random share of the time that an undisturbed run takes; what one kept is the start of the
next, until all is kept and it begins anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import ssmtool
from tests.cli.test_process import ENVIRONMENT
from tests.pipeline.language_models import byte_model

LAYERS, KILLS = 6, 10
HARNESS = """
import json, os, random, re, shutil, signal, sys, time
import ssmtool.pipeline.compress, ssmtool.report.documents, ssmtool.report.text.compress
import ssmtool.checks.check, ssmtool.report.check_document
import ssmtool.pipeline.portrait, ssmtool.report.overview
import torch._dynamo  # loaded by the first kernel that a model on tokens runs
from ssmtool import plugins
for name in plugins.names("ssmtool.analyses"):
    plugins.load("ssmtool.analyses", name)
import ssmtool.pipeline.selective_compress, ssmtool.report.text.selective, ssmtool.pipeline.runner
from pathlib import Path
from ssmtool.__main__ import main

asked, (seed, kills), complete = json.loads(sys.argv[1]), map(int, sys.argv[2:]), []
writes = asked[0] in ("compress", "report")
end = ".html" if asked[0] == "report" else "" if any(map(os.path.isdir, asked)) else ".safetensors"  # of outputs

def run(args, output, kill_after=None):
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os._exit(main([*args, *(["-o", output] if writes else [])]))
    start = time.monotonic()
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, time.monotonic() - start

def content(output):
    path = Path(output)
    if path.suffix == ".html":  # the page says which command wrote it
        return re.sub(rb">ssmtool report [^<]*<", b"", path.read_bytes())
    return [file.read_bytes() for file in sorted(path.iterdir())] if path.is_dir() else path.read_bytes()

def remove(output):
    shutil.rmtree(output) if os.path.isdir(output) else os.remove(output)

def count(folder):
    results = Path(folder) / "results"
    return len([file for file in results.iterdir() if len(file.name) == 64]) if results.is_dir() else 0

def said():
    return open("out").read(), open("err").read()

run([*asked, "--no-cache"], "warm" + end)  # compiles the kernels
code, duration = run([*asked, "--no-cache"], "plain" + end)
plain, kept, codes, moments = said(), [], [], random.Random(seed)
run([*asked, "--cache", "full"], "full" + end)
entries = count("full")
while len(codes) < kills or (len(codes) < 5 * kills and not any(0 < n < entries for n in kept)):
    if kept and kept[-1] == entries:
        shutil.rmtree("kept")
    codes.append(run([*asked, "--cache", "kept"], "killed" + end, moments.uniform(0, duration))[0])
    kept.append(count("kept"))
    if os.path.exists("killed" + end):
        complete.append(content("killed" + end) == content("plain" + end))
        remove("killed" + end)
last, _ = run([*asked, "--cache", "kept"], "last" + end)
found = {"codes": codes, "entries": entries, "kept": kept, "ends": [code, last]}
found |= {"plain": plain, "last": said(), "complete": complete}
if writes:
    found["equal"] = content("last" + end) == content("plain" + end)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """S4D layers, each of another content, large enough that most kills meet the work."""
    return _s4d(tmp_path_factory.mktemp("model") / "model.safetensors", LAYERS, 24, 24)


def _s4d(path: Path, layers: int, channels: int, slots: int) -> Path:
    rng = np.random.default_rng(0)
    tensors = {}
    for i in range(layers):
        at = f"layers.{i}."
        tensors[at + "D"] = rng.standard_normal(channels)
        tensors[at + "kernel.C"] = rng.standard_normal((channels, slots, 2)) * 0.7 ** np.arange(slots)[:, None]
        tensors[at + "kernel.log_dt"] = np.log(rng.uniform(0.005, 0.05, channels))
        tensors[at + "kernel.log_A_real"] = np.log(0.5 + rng.uniform(0, 0.1, (channels, slots)))
        tensors[at + "kernel.A_imag"] = np.pi * (0.5 + np.arange(slots)) * np.ones((channels, 1))
    save_file({name: array.astype(np.float32) for name, array in tensors.items()}, path)
    return path


ASKED = {
    "hsv": ["hsv", "--json"],
    "compress": ["compress", "--rank", "12"],
    "check": ["check", "--set", "reduced_error.rank=12", "--set", "reduced_error.max=10", "--json"],
}


@pytest.mark.parametrize("name", ASKED)
def test_killed_at_random_moments_the_end_is_the_same(checkpoint, tmp_path, name):
    found = _killed([*ASKED[name], str(checkpoint)], tmp_path)
    assert found["entries"] >= LAYERS
    if name in ("hsv", "check"):
        assert found["last"] == found["plain"]


def test_a_report_against_a_reduction(tmp_path):
    """Of each layer: Hankel singular values, two measured ranks, the look at it and its row in every section."""
    checkpoint, reduced = _s4d(tmp_path / "model.safetensors", 3, 6, 8), tmp_path / "reduced.safetensors"
    ssmtool.compress(ssmtool.load(checkpoint), reduced, rank=4, device="cpu")
    asked = ["report", str(checkpoint), str(reduced), "--measure", "3,4", "--no-timings"]
    assert _killed(asked, tmp_path, kills=6)["entries"] == 5 * 3


def test_a_report_on_tokens(tmp_path):
    """The calibration, and six sections."""
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 256, (16, 48)))
    asked = ["report", str(byte_model(tmp_path / "model", "mamba2")), "--tokens", str(tmp_path / "tokens.npy")]
    assert _killed(asked, tmp_path, kills=6)["entries"] == 1 + 6 + 2  # and the look at either layer


def test_a_selective_model_as_well(tmp_path):
    """Its calibration, the fit of each of two layers and the fit of both together are kept."""
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 256, (64, 48)))
    model = byte_model(tmp_path / "model", "mamba2")
    asked = ["compress", str(model), "--rank", "8", "--refit", "16", "--tokens", str(tmp_path / "tokens.npy")]
    assert _killed(asked, tmp_path)["entries"] == 4


def _killed(asked: list[str], folder: Path, kills: int = KILLS) -> dict[str, Any]:
    arguments = [json.dumps([*asked, "--device", "cpu"]), "0", str(kills)]
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, *arguments],
        cwd=folder,
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    entries = found["entries"]
    assert found["ends"] == [0, 0], found
    assert set(found["codes"]) <= {-9, 0}
    assert -9 in found["codes"]
    assert any(0 < count < entries for count in found["kept"]), "no kill met the work"
    # Nothing that was kept is lost, and what is found at the destination is complete.
    assert all(before <= after for before, after in pairwise(found["kept"]) if before < entries)
    assert all(found["complete"])
    assert found.get("equal", True)
    return found
