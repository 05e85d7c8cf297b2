"""x[t] = lam x[t-1] + v[t]: the diagonal scan whose decay is constant in time, real or complex, states out."""

from ssmtool_kernels.diagonal_states.naive import diagonal_states_step
from ssmtool_kernels.diagonal_states.op import diagonal_states

__all__ = ["diagonal_states", "diagonal_states_step"]
