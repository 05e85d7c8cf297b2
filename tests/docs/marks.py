"""Marks of blocks in pages that are read as plain Markdown, where a comment would be in the way.

By page and a part of the block's text. What marks mean is in blocks.py.
"""

from __future__ import annotations

TRAINS = "trains for minutes; docs/train.md has a short run"
REGULARIZED = """
import torch, ssmtool.training
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import create
model, loss = create("s4d", Sizes(2, 4, 3, (16, 16)), seed=0), torch.tensor(1.0)
"""
FROM_OUTSIDE = {
    ("README.md", "ssmtool speculate"): {"varies": r"^(\d+ +[\d.]+ m?s|wall|Batch|  yields|speed-up)"},
    ("README.md", "ssmtool bench"): {"varies": "threads?$"},
    ("README.md", "ssmtool train"): {"skip": TRAINS},
    ("README.md", "passed, "): {"skip": "the last line of make test itself"},
    ("README.md", "regularizer = "): {"before": REGULARIZED},
    ("fixtures/README.md", "python fixtures/make"): {"skip": "trains for minutes"},
}
