"""What happens to tokens: averages against loops, importance, verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssmtool.analyses import token_dynamics
from ssmtool.analyses._importance import ImportanceMeter
from tests.analyses.mixers import permuted, random_diagonal, random_scalar, shown, stream

MIXERS = {"diagonal": random_diagonal(), "scalar": random_scalar(width=4)}


def of_mixer(mixer, *streams):
    observer = token_dynamics.start()
    observer.selective("m", mixer)
    for x in streams:
        observer.see(shown(mixer, x))
    return observer.result()


@pytest.mark.parametrize("name", MIXERS)
def test_averages_over_two_batches_against_loops(name):
    mixer, first, second = MIXERS[name], stream(2, 9), stream(3, 9, seed=1)
    row = of_mixer(mixer, first, second).layers[0]
    seen = [shown(mixer, x) for x in (first, second)]
    x = torch.cat([part.stream for part in seen]).numpy()
    update = torch.cat([part.update for part in seen]).numpy()
    after = x + update
    norm = np.linalg.norm
    assert row.norm_before == pytest.approx(norm(x, axis=-1).mean())
    assert row.norm_after == pytest.approx(norm(after, axis=-1).mean())
    assert row.update_norm == pytest.approx(norm(update, axis=-1).mean())
    assert row.update == pytest.approx((norm(update, axis=-1) / norm(x, axis=-1)).mean())
    cosine = (x * update).sum(-1) / norm(x, axis=-1) / norm(update, axis=-1)
    assert row.cosine == pytest.approx(cosine.mean())
    unit = after / norm(after, axis=-1, keepdims=True)
    pairs = [unit[b, i] @ unit[b, j] for b in range(5) for i in range(9) for j in range(9) if i != j]
    assert row.similarity == pytest.approx(np.mean(pairs))
    moment = np.zeros((mixer.groups, mixer.states, mixer.states))
    for part in seen:
        trace = part.passes["m"].trace
        moment = moment + np.einsum("blgn,blgm->gnm", trace.C.numpy(), trace.B.numpy())
    eigenvalues = np.real(np.concatenate([np.linalg.eigvals(m / 45) for m in moment]))
    assert row.moment is not None
    assert row.moment.most == pytest.approx(eigenvalues.max())
    assert row.moment.positive == (eigenvalues > 0).sum()


def test_rank_of_orthogonal_and_of_equal_tokens():
    mixer = replace(random_diagonal(width=4), out=np.zeros((4, 6)))
    orthogonal = torch.eye(4, dtype=torch.float64)[None]
    equal = torch.ones(1, 5, 4, dtype=torch.float64)
    assert of_mixer(mixer, orthogonal).layers[0].rank == pytest.approx(4)
    row = of_mixer(mixer, equal).layers[0]
    assert row.rank == pytest.approx(1, abs=1e-6)
    assert row.similarity == pytest.approx(1)


@pytest.mark.parametrize(("sign", "regime"), [(-1.0, "convergent"), (1.0, "divergent")])
def test_regimes_of_the_paper(sign, regime):
    mixer = random_diagonal(inner=5, states=2)
    mixer = replace(mixer, x_c=sign * mixer.x_b)  # S_C^T S_B is then definite
    section = of_mixer(mixer)
    assert section.layers[0].regime == regime
    assert any("pull tokens together" in verdict.text for verdict in section.verdicts) == (sign < 0)
    assert section.caveat in section.tables()[0].note


@pytest.mark.parametrize("name", MIXERS)
def test_the_order_of_states_does_not_matter(name):
    mixer, x = MIXERS[name], stream()
    first, second = (of_mixer(m, x).layers[0] for m in (mixer, permuted(mixer, np.arange(mixer.states)[::-1])))
    assert first.moment is not None
    assert second.moment is not None
    assert first.moment.most == pytest.approx(second.moment.most)
    assert first.weights.inertia == second.weights.inertia
    assert first.norm_after == pytest.approx(second.norm_after)


def test_importance_by_token():
    tokens = torch.tensor([[65, 66] * 10, [65, 10] * 10])
    dt = torch.where(tokens == 65, 2.0, 0.5)[..., None] * torch.ones(3)
    meter = ImportanceMeter()
    meter.add(tokens, dt)
    found = meter.result()
    root = np.sqrt(3)
    assert [token for token, _ in found.tokens] == ["A", "\\n", "B"]
    np.testing.assert_allclose([size for _, size in found.tokens], [2 * root, root / 2, root / 2])
    assert found.mean == pytest.approx(1.25 * root)
    assert found.deviation == pytest.approx(0.75 * root)
    assert found.top_tenth == pytest.approx(2 * 2 / 25)


def test_tokens_of_a_larger_vocabulary_are_numbers():
    meter = ImportanceMeter()
    meter.add(torch.full((1, 12), 5000), torch.ones(1, 12, 2))
    assert meter.result().tokens[0][0] == "5000"


def test_without_a_selective_layer_the_section_says_so():
    section = token_dynamics.start().result()
    assert section.layers == section.tables() == section.panels() == ()
    assert "no selective layer" in section.missing[0]
