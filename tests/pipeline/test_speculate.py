"""Speculative decoding gives the tokens of plain greedy decoding, whatever is drafted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import ssmtool
from ssmtool.errors import FamilyError, MismatchError, UsageError
from ssmtool.pipeline.drop_blocks import without
from ssmtool.pipeline.generate import greedy
from ssmtool.pipeline.speculative.decode import Pair, Start, decode, start
from ssmtool.pipeline.speculative.plan import Plan
from ssmtool.pipeline.speculative.speculate import open_stack, paired, speculate
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import Mixer, ScalarMixer
from tests.pipeline.language_models import byte_model, hybrid, saved

FIXTURES = Path(__file__).parents[2] / "fixtures"
LENGTH, PROMPTS = 48, 32
TREES = ("1x1", "1x4", "4x3", "3x2", "adaptive", "adaptive:5")


def stack(path: Path) -> LanguageModel:
    return open_stack(ssmtool.load(path), "cpu")


def thinned(model: LanguageModel, rank: int, seed: int = 0) -> LanguageModel:
    """A draft with random orthonormal projectors: a bad one, whose state still is the model's, projected."""
    generator = torch.Generator().manual_seed(seed)

    def projected(mixer: Mixer) -> ScalarMixer:
        assert isinstance(mixer, ScalarMixer)
        q = torch.linalg.qr(torch.randn(mixer.groups, mixer.states, rank, generator=generator))[0].mT.contiguous()
        return replace(mixer, project_b=q, project_c=q)

    return replace(model, mixers={name: tuple(map(projected, parts)) for name, parts in model.mixers.items()})


DRAFTS: dict[str, Callable[[LanguageModel], LanguageModel]] = {
    "itself": lambda model: model,
    "blocks left out": lambda model: without(model, model.names[2:3]),
    "half of the blocks": lambda model: without(model, model.names[1:3]),
    "projected": lambda model: thinned(model, 24) if isinstance(first(model), ScalarMixer) else model,
}


def first(model: LanguageModel):
    return model.mixers[model.names[0]][0]


@cache
def trained(fixture: str) -> tuple[LanguageModel, tuple[Start, ...], tuple[list[int], ...]]:
    """A fixture, prompts of several lengths it has read, and how each goes on by plain greedy decoding."""
    model = stack(FIXTURES / fixture)
    rows = torch.from_numpy(np.load(FIXTURES / "stdlib-heldout.npy")[::4].astype(np.int64))
    with torch.no_grad():
        starts = tuple(start(model, rows[i : i + 1, i : i + 9 + i]) for i in range(PROMPTS))
    return model, starts, tuple(plain(model, begun) for begun in starts)


def plain(model: LanguageModel, begun: Start, length: int = LENGTH) -> list[int]:
    return greedy(model, begun.logits, begun.memories, length)[0].tolist()


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("fixture", ["bytes-mamba2", "bytes-mamba"])
def test_many_prompts_in_a_batch_go_on_as_each_does_alone(fixture, tree):
    model, starts, expected = trained(fixture)
    pair = paired(model, DRAFTS["half of the blocks"](model))
    found, tally = decode(pair, Plan.parse(tree), list(starts), LENGTH)
    assert found == list(expected)
    assert tally.accepted + tally.rounds >= PROMPTS * (LENGTH - 1)
    assert tally.rounds < PROMPTS * (LENGTH - 1)


@pytest.mark.parametrize("sync", ["auto", "replay"])
@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("fixture", ["bytes-mamba2", "bytes-mamba"])
def test_every_draft_and_every_way_to_keep_it_in_step(fixture, draft, sync):
    model, starts, expected = trained(fixture)
    pair = paired(model, DRAFTS[draft](model), sync)
    for tree in ("2x3", "adaptive"):
        found, _ = decode(pair, Plan.parse(tree), list(starts[::4]), 32)
        assert found == [tokens[:32] for tokens in expected[::4]]


@pytest.mark.parametrize("fixture", ["bytes-mamba2", "bytes-mamba"])
def test_one_prompt_at_a_time(fixture):
    model, starts, expected = trained(fixture)
    pair = paired(model, without(model, model.names[2:3]), "replay")
    for begun, tokens in list(zip(starts, expected, strict=True))[::6]:
        assert decode(pair, Plan.parse("4x3"), [begun], LENGTH)[0] == [tokens]


@pytest.mark.parametrize("sync", ["project", "replay"])
@pytest.mark.parametrize(("tree", "depth"), [("1x1", 1), ("1x4", 4), ("3x2", 2)])
def test_a_model_that_drafts_for_itself_is_always_right(tree, depth, sync):
    model, starts, expected = trained("bytes-mamba2")
    found, tally = decode(paired(model, model, sync), Plan.parse(tree), [starts[3]], LENGTH)
    assert found == [expected[3]]
    assert tally.rounds == -(-(LENGTH - 1) // (depth + 1))
    # the last round may give more tokens than were asked for
    assert tally.accepted == LENGTH - 1 - tally.rounds + ((LENGTH - 1) % (depth + 1) > 0)


def test_a_draft_of_another_family(tmp_path):
    model, starts, expected = trained("bytes-mamba2")
    pair = paired(model, stack(FIXTURES / "bytes-mamba"))
    assert pair.links is None
    found, tally = decode(pair, Plan.parse("1x3"), list(starts[:4]), LENGTH)
    assert found == list(expected[:4])
    assert tally.accepted > tally.rounds  # both have learnt the same language


def nearly_tied(model: LanguageModel, noise: float) -> LanguageModel:
    """Every token has a twin whose row of the embedding, and so of the head, differs by rounding alone."""
    rows = model.embedding.clone()
    generator = torch.Generator().manual_seed(1)
    rows[1::2] = rows[::2] * (1 + noise * torch.randn(rows[::2].shape, generator=generator))
    return replace(model, embedding=rows, head=rows)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 3e-6])
@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_tokens_too_close_to_tell_apart_are_left_to_plain_steps(kind, noise, tmp_path):
    model = nearly_tied(stack(byte_model(tmp_path / "model", kind)), noise)
    prompts = torch.randint(256, (4, 7), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        starts = [start(model, prompt[None]) for prompt in prompts]
        expected = [plain(model, begun, 24) for begun in starts]
    for tree in ("1x3", "4x2", "adaptive"):
        found, tally = decode(paired(model, model), Plan.parse(tree), starts, 24)
        assert found == expected
        assert tally.plain_steps > 0


@pytest.mark.parametrize("length", [1, 2, 3])
def test_few_tokens(length):
    model, starts, expected = trained("bytes-mamba")
    found, tally = decode(paired(model, model), Plan.parse("1x4"), list(starts[:3]), length)
    assert found == [tokens[:length] for tokens in expected[:3]]
    assert tally.rounds == (0 if length == 1 else 3)


def test_the_report_counts_what_was_done():
    model, starts, expected = trained("bytes-mamba2")
    prompts = [begun.tokens for begun in starts[:5]]
    pair = paired(model, without(model, model.names[2:3]))
    result = speculate(pair, Plan.parse("2x2"), prompts, 20, batch=2, batches=(1, 3))
    assert result.passed
    assert result.tokens == tuple(tuple(tokens[:20]) for tokens in expected[:5])
    assert result.plain_calls == 5 * 19
    assert result.calls == result.tally.rounds + result.tally.plain_steps
    assert result.saved == pytest.approx(1 - result.calls / 95)
    assert result.tally.drafted == 4 * result.tally.rounds
    # every token after the first is an accepted one or the verifier's own, which may be cut off in the last round
    assert result.tally.accepted + result.tally.rounds - 5 <= 5 * 19 <= result.tally.accepted + result.tally.rounds
    assert [row.batch for row in result.economics] == [1, 3]
    assert all(row.tokens == pytest.approx(1 + result.accepted_length) for row in result.economics)
    assert result.draft.blocks == (4, 3)


def test_a_wrong_continuation_would_be_noticed(monkeypatch):
    from ssmtool.pipeline.speculative import speculate as module

    model, starts, _ = trained("bytes-mamba2")

    def wrong(pair: Pair, plan: Plan, begun: list[Start], length: int):
        found, tally = decode(pair, plan, begun, length)
        return [[(tokens[0] + 1) % 256, *tokens[1:]] for tokens in found], tally

    monkeypatch.setattr(module, "decode", wrong)
    result = speculate(paired(model, model), Plan.parse("1x2"), [starts[0].tokens], 8, batches=())
    assert (result.identical, result.passed) == (0, False)


def test_what_cannot_be_decoded(tmp_path):
    model, starts, _ = trained("bytes-mamba2")
    pair, plan = paired(model, model), Plan.parse("1x2")
    with pytest.raises(UsageError, match="no prompt"):
        speculate(pair, plan, [], 8)
    with pytest.raises(UsageError, match="prompt 2 is empty"):
        speculate(pair, plan, [starts[0].tokens, torch.zeros(1, 0, dtype=torch.int64)], 8)
    with pytest.raises(UsageError, match="token 256"):
        speculate(pair, plan, [torch.tensor([[1, 256]])], 8)
    with pytest.raises(UsageError, match="at least 1"):
        speculate(pair, plan, [starts[0].tokens], 0)


def test_what_cannot_draft(tmp_path):
    pytest.importorskip("transformers")
    model, _, _ = trained("bytes-mamba2")
    other = stack(saved(hybrid("falcon_mamba"), tmp_path / "falcon"))
    with pytest.raises(MismatchError, match="different vocabularies: the model has 256 tokens, its draft 64"):
        paired(model, other)
    with pytest.raises(MismatchError, match="cannot be projected"):
        paired(model, stack(FIXTURES / "bytes-mamba"), "project")
    with pytest.raises(UsageError, match="no --sync sideways"):
        paired(model, model, "sideways")
    with pytest.raises(FamilyError, match="input-dependent"):
        stack(FIXTURES / "digits-s4d.safetensors")
    with pytest.raises(FamilyError, match="Mamba blocks alone"):
        stack(saved(hybrid("bamba"), tmp_path / "bamba"))


def test_falcon_mamba_drafts_for_itself(tmp_path):
    pytest.importorskip("transformers")
    model = stack(saved(hybrid("falcon_mamba"), tmp_path / "falcon"))
    with torch.no_grad():
        begun = start(model, torch.tensor([[3, 1, 4, 1, 5]]))
        expected = plain(model, begun, 16)
    assert decode(paired(model, model), Plan.parse("2x3"), [begun], 16)[0] == [expected]
