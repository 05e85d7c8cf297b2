"""Hankel singular values of many small single-input single-output systems at once."""

from ssmtool_kernels.hankel.op import LARGEST, hankel_values

__all__ = ["LARGEST", "hankel_values"]
