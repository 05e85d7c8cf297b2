"""`make bench`: every benchmark, or those of BENCHMARKS that are named on the command line."""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

BENCHMARKS = {
    "accuracy": "Hankel singular values against mpmath",
    "engine": "Hankel singular values and balanced truncation against SLICOT, SciPy and pyMOR",
    "scale": "A 4 GB checkpoint: memory and time",
    "selective": "Reduced Mamba and Mamba-2 language models against selection of states",
    "allocation": "States shared out among layers and channels against the same for all, on sequential digits",
    "kernels": "Scans in C and Triton against plain PyTorch and other people's kernels",
}


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHMARKS)
    print(f"{platform.machine()}, Python {platform.python_version()}")
    for name in chosen:
        print(f"\n{BENCHMARKS[name]}")
        import_module(name).run()


if __name__ == "__main__":
    main()
