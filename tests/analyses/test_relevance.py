"""Relevance: the values of the model, nothing lost on the way, and cases where it is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssmtool.analyses import relevance
from ssmtool.analyses._layerwise import logits, with_live_biases
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import to_torch
from tests.analyses.mixers import random_diagonal, random_scalar


def model(*mixers) -> LanguageModel:
    """One block per mixer, width 4, eleven tokens, untied head."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    names = [f"layers.{i}" for i in range(len(mixers))]
    return LanguageModel(
        random(11, 4),
        random(11, 4),
        {name: random(4) for name in names},
        {name: (to_torch(mixer, torch.float64),) for name, mixer in zip(names, mixers, strict=True)},
        random(4),
        1e-5,
    )


RNG = np.random.default_rng(5)
MIXERS = {
    "diagonal": (random_diagonal(), random_diagonal(seed=1)),
    "no gate, groups": (replace(random_diagonal(groups=2), in_z=None),),
    "biases": (replace(random_diagonal(), in_x_bias=RNG.normal(size=6), out_bias=RNG.normal(size=4)),),
    "scalar": (random_scalar(width=4), random_scalar(width=4, seed=1)),
    "norm before gate": (replace(random_scalar(width=4), norm_before_gate=True, in_bias=RNG.normal(size=40)),),
    "no norm": (replace(random_scalar(width=4), norm=None),),
    "linear part": (replace(random_scalar(width=4), in_mlp=RNG.normal(size=(6, 4)), out=RNG.normal(size=(4, 11))),),
    "projected": (
        replace(random_scalar(width=4), project_b=RNG.normal(size=(2, 2, 5)), project_c=RNG.normal(size=(2, 2, 5))),
    ),
    "backwards": (replace(random_diagonal(), reverse=True),),
    "both kinds": (random_diagonal(), random_scalar(width=4)),
}
TOKENS = torch.from_numpy(np.random.default_rng(2).integers(0, 11, (3, 17)))


@pytest.mark.parametrize("name", MIXERS)
def test_the_rules_change_gradients_and_not_values(name):
    runner = model(*MIXERS[name])
    live, _ = with_live_biases(runner)
    embedded = F.embedding(TOKENS, runner.embedding)
    torch.testing.assert_close(logits(live, embedded), runner.logits(TOKENS))


@pytest.mark.parametrize("name", MIXERS)
def test_relevance_is_conserved(name):
    found = relevance.explain(model(*MIXERS[name]), TOKENS)
    assert found.conservation is not None
    assert found.conservation < 1e-10
    assert found.sequences == 3
    assert sum(found.profile) == pytest.approx(1)


def test_without_biases_the_tokens_alone_carry_the_logit():
    bare = replace(random_diagonal(), conv_bias=None)
    found = relevance.explain(model(bare), TOKENS)
    assert found.absorbed == pytest.approx(0)


def test_of_a_block_that_adds_nothing_all_relevance_is_the_last_token_s():
    silent = replace(random_diagonal(), out=np.zeros((4, 6)))
    found = relevance.explain(model(silent), TOKENS)
    assert found.reach == 1
    assert found.mean_distance == pytest.approx(0)
    for example, row in zip(found.examples, TOKENS, strict=True):
        assert example.tokens == tuple(row.tolist())
        assert abs(example.relevance[-1]) == pytest.approx(1)


def test_a_layer_that_delays_by_two_gives_its_relevance_to_that_token():
    """A convolution that only knows the token before last, and a state that forgets at once."""
    mixer = random_diagonal()
    taps = np.zeros((6, 3))
    taps[:, 0] = 1.0
    late = replace(mixer, conv=taps, conv_bias=None, in_z=None, a_log=np.full((6, 3), 30.0))
    found = relevance.explain(model(replace(late, out=1e6 * late.out)), TOKENS)
    assert int(np.argmax(found.profile)) == 2
    assert found.profile[2] > 0.99


def test_it_explains_what_the_model_predicts():
    runner = model(*MIXERS["diagonal"])
    found = relevance.explain(runner, TOKENS)
    last = runner.logits(TOKENS)[:, -1]
    for example, row in zip(found.examples, last, strict=True):
        assert example.prediction == int(row.argmax())
        assert example.logit == pytest.approx(float(row.max()))


def test_what_is_said_where_it_is_not_available():
    class Hybrid:
        names: tuple[str, ...] = ()
        vocabulary = 11

        def logits(self, tokens, visit=None):
            raise AssertionError("not run")

    observer = relevance.start()
    assert "no selective layer" in observer.result().missing[0]
    observer.selective("m", random_diagonal())
    assert "--tokens" in observer.result().missing[0]
    observer.run(Hybrid(), TOKENS)
    section = observer.result()
    assert "not available" in section.missing[0]
    assert section.tables() == section.panels() == ()
