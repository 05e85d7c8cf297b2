"""Effective state sizes, distances and growth of layers whose memory is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmtool.analyses import memory
from ssmtool.analyses._growth import FACTOR, state_growth
from ssmtool.analyses._projected import as_read
from ssmtool.lti.hankel import hankel_singular_values
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import to_torch
from ssmtool.selective.statistics import states
from tests.analyses.mixers import constant, permuted, random_diagonal, random_scalar, shown, stream
from tests.lti.samples import batch, diagonal, ring


def of_system(system):
    observer = memory.start()
    observer.linear("m", system)
    return observer.result()


def of_mixer(mixer, *streams):
    observer = memory.start()
    observer.selective("m", mixer)
    for x in streams:
        observer.see(shown(mixer, x))
    return observer.result()


def lone(mixer):
    """A model of one layer that reads two numbers per token, whatever they are."""
    ready = to_torch(mixer, torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    table = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return LanguageModel(table, table, {"m": one}, {"m": (ready,)}, one, 1e-5), {"m": {"m": ready}}


def test_effective_size_and_orders_of_a_linear_layer():
    system = ring(3, 5)
    sigma = hankel_singular_values(system).sigma
    share = np.square(sigma) / np.square(sigma).sum(1, keepdims=True)
    row = of_system(system).layers[0]
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(1)
    assert row.effective == pytest.approx(np.median(np.exp(entropy)))
    for count, error in ((row.needed, 0.01), (row.roughly, 0.1)):
        assert count is not None
        tails = np.sqrt(np.maximum(1 - np.cumsum(share, axis=1), 0))
        assert (tails[:, count - 1] <= error * (1 + 1e-6)).all()
        assert (tails[:, count - 2] > error).any()


def test_one_state_that_matters_is_one_state():
    weak = 1e-9
    system = diagonal([-0.1, -0.5, -1.0], [1, weak, weak], [1, weak, weak], real=True)
    section = of_system(system)
    row = section.layers[0]
    assert (row.states, row.needed, row.roughly) == (3, 1, 1)
    assert row.effective == pytest.approx(1, abs=1e-6)
    assert "uses 1 of 3 states" in section.verdicts[0].text
    assert "raising d_state will not help" in section.verdicts[0].text


def test_unstable_and_silent_systems_are_counted():
    silent = diagonal([-0.1, -0.2], [1.0, 1.0], [0.0, 0.0], real=True)
    unstable = diagonal([0.1, -0.2], [1.0, 1.0], [1.0, 1.0], real=True)
    assert of_system(silent).layers[0].needed == 0
    assert of_system(silent).layers[0].effective == 0
    row = of_system(unstable).layers[0]
    assert (row.needed, row.effective) == (2, pytest.approx(2.0))
    assert row.mean_distance == np.inf
    assert of_system(batch(silent, unstable)).layers[0].needed == 2


def test_rows_of_c_that_agree_leave_one_direction():
    mixer = random_diagonal(states=4)
    once = replace(mixer, x_c=np.repeat(mixer.x_c[:, :1], 4, axis=1))
    row = of_mixer(once, stream(8, 64)).layers[0]
    assert (row.needed, row.roughly) == (1, 1)
    assert row.effective == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("mixer", [random_diagonal(states=4), random_scalar(width=4)], ids=["diagonal", "scalar"])
def test_the_order_of_states_does_not_matter(mixer):
    x = stream(8, 48)
    first, second = (of_mixer(m, x).layers[0] for m in (mixer, permuted(mixer, np.arange(mixer.states)[::-1])))
    assert first.effective == pytest.approx(second.effective)
    assert first.needed == second.needed
    assert first.mean_distance == pytest.approx(second.mean_distance)
    np.testing.assert_allclose(first.profile, second.profile, atol=1e-9)


def test_too_few_tokens_leave_the_sizes_empty_but_not_the_rest():
    row = of_mixer(random_scalar(width=4, states=40, groups=1), stream(1, 20)).layers[0]
    assert row.effective is None
    assert row.mean_distance is not None


def test_smoothness_is_the_share_of_the_mean():
    mixer = replace(random_diagonal(width=4), out=np.zeros((4, 6)))
    x = stream(2, 30)
    share = (x.mean(1).square().sum(-1) * 30 / x.square().sum((1, 2))).mean()
    assert of_mixer(mixer, x).layers[0].smoothness == pytest.approx(share.item())
    same = of_mixer(mixer, torch.ones_like(x))
    assert same.layers[0].smoothness == pytest.approx(1)
    assert any("over-smoothed" in verdict.text for verdict in same.verdicts)


@pytest.mark.parametrize("rate", [1e-9, 0.02, 2.0])
def test_growth_is_that_of_a_leaky_integrator(rate):
    """h_t = step (1 - q^t) / (1 - q), q = exp(-rate step): linear growth as rate -> 0, none once 1 / rate is short."""
    length, step = 32, 0.5
    runner, mixers = lone(constant([[rate]], step))
    places, growth = state_growth(runner, mixers, torch.zeros(2 * FACTOR, length, dtype=torch.long))["m"]
    assert places == tuple(range(8, FACTOR * length + 1, 8))
    q = np.exp(-rate * step)
    size = np.array([np.mean([sum(q**k for k in range(t)) ** 2 for t in (p - 6, p - 4, p - 2, p)]) for p in places])
    np.testing.assert_allclose(growth, np.sqrt(size / size[3]), rtol=1e-6)


def test_a_growing_state_is_a_warning():
    mixer = constant([[1e-6]], 0.5)
    runner, _ = lone(mixer)
    observer = memory.start()
    observer.selective("m", mixer)
    observer.see(shown(mixer, stream(4, 32, 2)))
    observer.run(runner, torch.zeros(4, 32, dtype=torch.long))
    section = observer.result()
    assert section.layers[0].growth_at[-1] == 128
    assert any("state collapse" in verdict.text for verdict in section.verdicts)


def test_few_sequences_make_shorter_growth():
    runner, mixers = lone(constant([[1.0]], 0.5))
    places, _ = state_growth(runner, mixers, torch.zeros(1, 16, dtype=torch.long))["m"]
    assert places[-1] == 16


def test_without_tokens_the_section_says_what_it_needs():
    section = of_mixer(random_diagonal())
    assert section.layers[0].effective is None
    assert "--tokens" in section.missing[0]
    assert section.panels() == ()


def test_a_projected_layer_has_the_states_it_runs_on():
    """The states that are measured are those the scan reads: their product with the projected C is its output."""
    rng = np.random.default_rng(7)
    projected = replace(
        random_scalar(width=4), project_b=rng.normal(size=(2, 2, 5)), project_c=rng.normal(size=(2, 2, 5))
    )
    x = stream(8, 48)
    row = of_mixer(projected, x).layers[0]
    assert row.states == 2
    assert len(row.profile) == 2
    seen = shown(projected, x).passes["m"]
    scan, trace = as_read(seen.mixer, seen.trace)
    h = torch.stack([state for _, state in states(scan, trace, memory.STRIDE)])
    assert h.shape[-1] == 2
    y = (h * trace.C[:, memory.STRIDE - 1 :: memory.STRIDE].transpose(0, 1)[:, :, :, None]).sum(-1)
    expected = seen.trace.y - seen.mixer.d_skip * seen.trace.x  # the scan's own output, at the same steps
    torch.testing.assert_close(
        y.flatten(2), expected[:, memory.STRIDE - 1 :: memory.STRIDE].transpose(0, 1).flatten(2), rtol=1e-8, atol=1e-8
    )
