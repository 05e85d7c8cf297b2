"""Scans over a tree of tokens in one pass, for speculative verification; the accepted path is replayed."""

from ssmtool_kernels.tree.convolution import replay_convolution, tree_convolution
from ssmtool_kernels.tree.diagonal import replay_diagonal, tree_diagonal_scan
from ssmtool_kernels.tree.selective import replay_selective, tree_selective_scan
from ssmtool_kernels.tree.ssd import replay_ssd, tree_ssd
from ssmtool_kernels.tree.tree import Tree

__all__ = [
    "Tree",
    "replay_convolution",
    "replay_diagonal",
    "replay_selective",
    "replay_ssd",
    "tree_convolution",
    "tree_diagonal_scan",
    "tree_selective_scan",
    "tree_ssd",
]
