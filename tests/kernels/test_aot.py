"""What ahead-of-time compilation complains of. The compilation itself is `make aot`, outside of the interpreter."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from ssmtool_kernels.aot import Found, complaints, operations, table

GOOD = Found(registers=100, stack=0, shared=4096, wide_loads=4, tensor_instructions=2)


def judged(now: Found) -> list[str]:
    return complaints({"op.kernel fp32 sm_90": now}, {"op.kernel fp32 sm_90": asdict(GOOD)})


def test_the_same_again_is_good() -> None:
    assert judged(GOOD) == []
    assert judged(replace(GOOD, registers=105)) == []


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (replace(GOOD, stack=8), "spills 8 bytes"),
        (replace(GOOD, registers=128), "128 registers, 100 recorded"),
        (replace(GOOD, shared=8192), "8192 bytes of shared memory"),
        (replace(GOOD, tensor_instructions=0), "no tensor-core"),
        (replace(GOOD, wide_loads=0), "no 128-bit loads"),
    ],
)
def test_what_is_worse_is_said(now: Found, said: str) -> None:
    (line,) = judged(now)
    assert said in line


def test_new_and_lost_kernels_are_said() -> None:
    (first,) = complaints({"new": GOOD}, {})
    assert "not recorded" in first
    (second,) = complaints({}, {"old": asdict(GOOD)})
    assert "gone" in second


def test_the_table_has_a_row_per_kernel() -> None:
    assert "| op.kernel fp32 sm_90 | 100 | 0 | 4096 | 4 | 2 |" in table({"op.kernel fp32 sm_90": GOOD}, "3.9")


def test_operations_are_found_by_their_files() -> None:
    assert "varying_scan" in operations()
