"""Scans: the C and Triton kernels, plain PyTorch and other people's kernels on the same inputs in one run.

Every operation with its own peers, the sweep over the state size, and on a GPU, where they are installed, the scans of
mamba_ssm and flash-linear-attention. Times are the least of several runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ssmtool.pipeline.bench import bench
from ssmtool.report.text.bench import bench_text
from ssmtool_kernels.case import Inputs, cases, cast
from ssmtool_kernels.measure import best, errors


def _tensors(given: Inputs) -> list[Tensor]:
    return [tensor for name in ("x", "dt", "A", "B", "C") if (tensor := given[name]) is not None]


def mamba_ssm_selective_scan(given: Inputs) -> tuple[Tensor, ...]:
    """state-spaces/mamba's CUDA kernel: (b, E, L) inputs, B and C (b, G, N, L)."""
    scan: Any = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    x, dt, A, B, C = _tensors(given)
    y, last = scan(
        x.mT.contiguous(),
        dt.mT.contiguous(),
        A,
        B.permute(0, 2, 3, 1).contiguous(),
        C.permute(0, 2, 3, 1).contiguous(),
        given.get("D"),
        return_last_state=True,
    )
    return y.mT, last


def mamba_ssm_ssd(given: Inputs) -> tuple[Tensor, ...]:
    """state-spaces/mamba's Triton kernels."""
    scan: Any = import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    x, dt, A, B, C = _tensors(given)
    return scan(x, dt, A, B, C, chunk_size=128, D=given.get("D"), return_final_states=True)


def fla_simple_gla(given: Inputs) -> tuple[Tensor, ...]:
    """flash-linear-attention's gated linear attention with one decay per head, which is the same recurrence."""
    scan: Any = import_module("fla.ops.simple_gla").chunk_simple_gla
    x, dt, A, B, C = _tensors(given)
    share = x.shape[2] // B.shape[2]
    k, q = (part.repeat_interleave(share, 2) for part in (B, C))
    y, last = scan(q, k, x * dt[..., None], g=dt * A, scale=1.0, output_final_state=True)
    return y, last.mT


FOREIGN: dict[str, dict[str, Callable[[Inputs], tuple[Tensor, ...]]]] = {
    "selective_scan": {"mamba_ssm": mamba_ssm_selective_scan},
    "ssd": {"mamba_ssm": mamba_ssm_ssd, "flash-linear-attention": fla_simple_gla},
}


def run() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", default="float32")
    given, _ = parser.parse_known_args(sys.argv[2:])
    print(bench_text(bench(dtype=given.dtype)))
    if torch.cuda.is_available():
        foreign(torch.bfloat16)
    else:
        print("mamba_ssm, flash-linear-attention: they need a CUDA device")


def foreign(dtype: torch.dtype) -> None:
    """Others' GPU kernels beside ours, without gate and initial state."""
    device = torch.device("cuda")
    for operation, peers in FOREIGN.items():
        case = cases()[operation]
        inputs = cast(case.make({"gate": 0, "state": 0, "softplus": 0}), dtype, "cuda")
        ours = best(lambda case=case, inputs=inputs: case.run(inputs, "triton"), device)
        reference = case.run(inputs, "triton")
        print(f"{operation} {dict(case.shape)} {dtype}: ssmtool {1e6 * ours:.0f} µs")
        for name, peer in peers.items():
            try:
                found = peer(inputs)
            except ImportError as missing:
                print(f"  {name}: {missing}")
                continue
            seconds = best(lambda peer=peer, inputs=inputs: peer(inputs), device)
            deviation = errors(found[:1], reference[:1]).l2
            print(f"  {name} {1e6 * seconds:.0f} µs, {seconds / ours:.2f}×, output differs by {deviation:.1e}")
