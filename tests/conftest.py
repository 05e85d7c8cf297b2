"""Hypothesis profiles: `dev` is the default, `ci` looks longer. Choose with HYPOTHESIS_PROFILE.

Without a CUDA device, Triton kernels run in Triton's interpreter, which has to be told before Triton is imported.
Where several processes test side by side (pytest-xdist), each takes its share of the cores, and so do the commands it
starts: threads that wait for each other make everything ten times as slow.
"""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # before NumPy and PyTorch are imported, which read it once
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

import pytest
import torch
from hypothesis import HealthCheck, settings

from ssmtool.cache import Cache

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# deadlines measure the machine's other load, not the code; fixtures of property tests are only read
settings.register_profile(
    "dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=300, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run inside a test compute what they show: the user's cache is neither read nor filled."""
    monkeypatch.setattr(Cache, "default", lambda: Cache(None))
