"""`make bench`: every benchmark but those that train for hours, or those named on the command line."""

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
    "throughput": "Layers per second from one to many layers, and the model of cost that predicts them",
    "regularizer": "What the Hankel regulariser adds to a training step",
    "refine": "Order against accuracy: truncated, refined without labels, refined on noise",
    "truncation": "Accuracy after dropping states, of models trained with and without regularisers",
    "selective": "Reduced Mamba and Mamba-2 language models against selection of states",
    "allocation": "States shared out among layers and channels against the same for all, on sequential digits",
    "kernels": "Scans in C and Triton against plain PyTorch and other people's kernels",
}
HOURS = ("truncation",)


def main() -> None:
    chosen = sys.argv[1:] or [name for name in BENCHMARKS if name not in HOURS]
    print(f"{platform.machine()}, Python {platform.python_version()}")
    for name in chosen:
        print(f"\n{BENCHMARKS[name]}")
        import_module(name).run()


if __name__ == "__main__":
    main()
