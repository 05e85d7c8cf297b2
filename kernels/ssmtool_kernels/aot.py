"""Compile every Triton kernel for the GPUs it is written for, without one, and hold it to what it needed before.

    python -m ssmtool_kernels.aot LIMITS.json TABLE.md [--update]

For every specimen and target: registers per thread, bytes of stack (spills), shared memory, 128-bit loads and
tensor-core instructions. Fails on spills, and on growth of registers or shared memory beyond the recorded limits, which
are those of one release of Triton: under another one only spills fail. --update records what was found. The table is
written with the limits.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ssmtool_kernels.specimen import Specimen

TARGETS = (80, 90)
SLACK = 1.1  # registers may grow by this factor: a small change of the source moves them
INSTRUCTIONS = {80: re.compile(r"\bmma\.sync"), 90: re.compile(r"\b(?:mma\.sync|wgmma\.mma_async)")}
WIDE = re.compile(
    r"\bld\.global[\w.:]*\.v4\.[bfsu]32|\bld\.global[\w.:]*\.v2\.[bfsu]64|\bcp\.async\.c[ag]\.shared\.global[^;]*0x10\b"
)


@dataclass(frozen=True)
class Found:
    """What one compiled kernel needs."""

    registers: int
    stack: int
    shared: int
    wide_loads: int
    tensor_instructions: int


def operations() -> list[str]:
    """Folders with Triton kernels."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/triton.py"))


def specimens(operation: str) -> Iterator[tuple[str, Specimen]]:
    """Every specimen of an operation with its name."""
    for specimen in import_module(f"ssmtool_kernels.{operation}.triton").specimens():
        kernel = getattr(specimen.kernel, "__name__", None) or specimen.kernel.fn.__name__
        yield f"{operation}.{kernel.strip('_')} {specimen.label}", specimen


def compiled(specimen: Specimen, capability: int) -> Found:
    """Compile one specimen for sm_80 or sm_90 and read what it needs."""
    triton: Any = import_module("triton")
    compiler: Any = import_module("triton.compiler")
    backends: Any = import_module("triton.backends.compiler")
    kernel = specimen.kernel
    names = list(kernel.arg_names)
    constants = {(names.index(name),): value for name, value in specimen.constants.items()}
    signature = {name: "constexpr" if name in specimen.constants else specimen.types[name] for name in names}
    divisible = [["tt.divisibility", 16]]
    attributes = {
        (i,): divisible for i, name in enumerate(names) if signature[name].startswith("*") or name in specimen.aligned
    }
    source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = backends.GPUTarget("cuda", capability, 32)
    options = {"num_warps": specimen.warps, "num_stages": specimen.stages}
    result = triton.compile(source, target=target, options=options)
    ptx = result.asm["ptx"]
    registers, stack = _resources(result.asm["cubin"])
    return Found(
        registers=registers,
        stack=stack,
        shared=int(result.metadata.shared),
        wide_loads=len(WIDE.findall(ptx)),
        tensor_instructions=len(INSTRUCTIONS[capability].findall(ptx)),
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers per thread and bytes of stack, from cuobjdump, which comes with Triton."""
    triton: Any = import_module("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    usage = re.search(r"REG:(\d+)\s+STACK:(\d+)", told.stdout)
    if usage is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {told.stdout.strip()[:200]}")
    return int(usage[1]), int(usage[2])


def examine(operation: str) -> dict[str, Found]:
    """Everything of one operation, on every target."""
    return {
        f"{name} sm_{capability}": compiled(specimen, capability)
        for name, specimen in specimens(operation)
        for capability in TARGETS
    }


def spills(found: dict[str, Found]) -> list[str]:
    """Kernels that put registers into memory."""
    return [f"{name}: spills {now.stack} bytes" for name, now in found.items() if now.stack]


def complaints(found: dict[str, Found], limits: dict[str, Any]) -> list[str]:
    """What is worse than it may be."""
    said = spills(found)
    for name, now in found.items():
        before = limits.get(name)
        if before is None:
            said.append(f"{name}: not recorded; run make aot-update")
        elif now.registers > SLACK * before["registers"]:
            said.append(f"{name}: {now.registers} registers, {before['registers']} recorded")
        elif now.shared > before["shared"]:
            said.append(f"{name}: {now.shared} bytes of shared memory, {before['shared']} recorded")
        elif before["tensor_instructions"] and not now.tensor_instructions:
            said.append(f"{name}: no tensor-core instructions any more")
        elif before["wide_loads"] and not now.wide_loads:
            said.append(f"{name}: no 128-bit loads any more")
    said += [f"{name}: recorded, and gone" for name in limits if name not in found]
    return said


def table(found: dict[str, Found], version: str) -> str:
    """Markdown."""
    lines = [
        "# Triton kernels as compiled",
        "",
        "Written by `make aot-update`: every kernel, dtype and configuration compiled ahead of time for sm_80 (A100)",
        f"and sm_90 (H100, H200) by Triton {version}. Nothing here was run on a GPU.",
        "",
        "| kernel | registers | stack (spills) | shared memory | 128-bit loads | tensor-core instructions |",
        "|---|---|---|---|---|---|",
    ]
    for name, need in found.items():
        lines.append(f"| {name} | {' | '.join(str(number) for number in asdict(need).values())} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Compile, write the table, compare. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("limits", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--only", action="append", help="an operation; nothing is written then")
    given = parser.parse_args()
    if os.environ.pop("TRITON_INTERPRET", "") == "1":
        print("aot: TRITON_INTERPRET=1 is set; kernels cannot be compiled in that process", file=sys.stderr)
        return 2
    chosen = given.only or operations()
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = {name: need for part in pool.map(examine, chosen) for name, need in part.items()}
    if given.only:
        print(table(found, release()))
        return int(bool(spills(found)))
    if given.update:
        document = {"triton": release(), "kernels": {name: asdict(need) for name, need in found.items()}}
        given.limits.write_text(json.dumps(document, indent=1) + "\n")
        given.table.write_text(table(found, release()))
    recorded = json.loads(given.limits.read_text())
    same = recorded["triton"] == release()
    if not same:
        print(f"aot: limits are those of Triton {recorded['triton']}, this is {release()}: only spills are told")
    said = complaints(found, recorded["kernels"]) if same else spills(found)
    for line in said:
        print(f"aot: {line}", file=sys.stderr)
    print(f"aot: {len(found)} kernels compiled by Triton {release()}, {len(said)} complaints")
    return int(bool(said))


def release() -> str:
    """Of Triton."""
    return import_module("triton").__version__


if __name__ == "__main__":
    sys.exit(main())
