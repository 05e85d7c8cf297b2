"""The diagonal scan with one input and one output as matrix products over chunks of time."""

from ssmtool_kernels.s4d_chunked.op import s4d_chunked

__all__ = ["s4d_chunked"]
