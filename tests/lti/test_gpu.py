"""The engine on a CUDA device against itself on the CPU."""

import numpy as np
import pytest
import torch

from ssmtool.lti.hankel import balance, hankel_singular_values
from ssmtool.lti.norms import h2_norm, hinf_norm
from ssmtool.lti.systems import DiagonalSystem

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def system(systems: int, slots: int, inputs: int, outputs: int) -> DiagonalSystem:
    rng = np.random.default_rng(slots + inputs)
    a = -np.exp(rng.uniform(-5, 0, (systems, slots))) + 1j * rng.uniform(0.1, 3.0, (systems, slots))

    def gaussian(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)

    B, C = gaussian(systems, slots, inputs), gaussian(systems, outputs, slots)
    return DiagonalSystem(a, B, C, np.zeros((systems, outputs, inputs)))


@pytest.mark.parametrize("shape", [(70, 16, 1, 1), (3, 8, 1, 2), (2, 8, 3, 3), (1, 40, 20, 20)])
def test_cuda_agrees_with_the_cpu(shape: tuple[int, int, int, int]) -> None:
    G = system(*shape)
    here, there = hankel_singular_values(G, "cpu").sigma, hankel_singular_values(G, "cuda").sigma
    np.testing.assert_allclose(there, here, rtol=1e-10)
    np.testing.assert_allclose(h2_norm(G, "cuda"), h2_norm(G, "cpu"), rtol=1e-10)
    np.testing.assert_allclose(hinf_norm(G, "cuda"), hinf_norm(G, "cpu"), rtol=1e-8)
    # balanced coordinates are unique up to signs, the product of C and B is not affected by them
    first, second = balance(G, 6, "cpu"), balance(G, 6, "cuda")
    np.testing.assert_allclose(second.C @ second.B, first.C @ first.B, rtol=1e-6, atol=1e-9)
