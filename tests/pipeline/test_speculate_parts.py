"""The parts of speculative decoding, each against what single steps say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ssmtool
from ssmtool.errors import UsageError
from ssmtool.pipeline.drop_blocks import without
from ssmtool.pipeline.generate import advance
from ssmtool.pipeline.speculative.auto import Candidate, best_draft, candidates
from ssmtool.pipeline.speculative.draft import draft_tree
from ssmtool.pipeline.speculative.economics import facts, state_bytes, steps_by_width, traffic, weight_bytes
from ssmtool.pipeline.speculative.memories import joined, replaced_rows, rows_of
from ssmtool.pipeline.speculative.plan import Confidence, Plan
from ssmtool.pipeline.speculative.results import DraftFacts, Economics
from ssmtool.pipeline.speculative.speculate import open_stack, paired
from ssmtool.pipeline.speculative.sync import links, projected_memories
from ssmtool.pipeline.speculative.verify import follow, read_tree
from ssmtool.pipeline.tokens import Tokens
from ssmtool.selective.forward import Memory
from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import Mixer, ScalarMixer
from ssmtool_kernels.tree import Tree
from tests.pipeline.language_models import byte_model

CLOSE = 1e-5  # relative: float32 sums in another order, through two blocks
TREES = {
    "chain": Tree.chain(5),
    "star": Tree.of([-1, 0, 0, 0, 0]),
    "grown": Tree.of([-1, 0, 0, 1, 1, 2, 4, 6]),
}


@pytest.fixture(params=["mamba", "mamba2", "projected"])
def model(request, tmp_path) -> LanguageModel:
    found = open_stack(
        ssmtool.load(byte_model(tmp_path / "model", request.param.replace("projected", "mamba2"))), "cpu"
    )
    return projected(found, 5) if request.param == "projected" else found


@pytest.fixture
def mamba2(tmp_path) -> LanguageModel:
    return open_stack(ssmtool.load(byte_model(tmp_path / "mamba2", "mamba2")), "cpu")


def projected(model: LanguageModel, rank: int) -> LanguageModel:
    generator = torch.Generator().manual_seed(rank)

    def change(mixer: Mixer) -> ScalarMixer:
        assert isinstance(mixer, ScalarMixer)
        b, c = (torch.randn(mixer.groups, rank, mixer.states, generator=generator) / 4 for _ in range(2))
        return replace(mixer, project_b=b, project_c=c)

    return replace(model, mixers={name: tuple(map(change, parts)) for name, parts in model.mixers.items()})


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed))


def same_memories(got, expected) -> None:
    assert got.keys() == expected.keys()
    for name, parts in expected.items():
        for mine, theirs in zip(got[name], parts, strict=True):
            assert distance(mine.h, theirs.h) < CLOSE
            assert distance(mine.tail, theirs.tail) < CLOSE


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).norm() / b.norm())


@torch.no_grad()
@pytest.mark.parametrize("shape", TREES)
def test_a_tree_is_read_as_its_paths_are_one_by_one(model, shape):
    tree, prompt = TREES[shape], drawn(2, 6)
    tokens = drawn(2, tree.size, seed=1)
    _, memories = advance(model, prompt)
    verified = read_tree(model, tokens, tree, memories)
    for node in range(tree.size):
        path = list(tree.path(node))
        logits, after = advance(model, tokens[:, path], memories)
        assert torch.equal(logits.argmax(-1)[verified.sure[:, node]], verified.best[:, node][verified.sure[:, node]])
        same_memories(verified.settle(torch.full((2,), node)), after)
    assert verified.sure.all()  # weights are random: no two tokens are that close


@torch.no_grad()
def test_every_sequence_settles_where_it_got_to(model):
    tree, tokens = TREES["grown"], drawn(3, 8, seed=1)
    _, memories = advance(model, drawn(3, 6))
    nodes = torch.tensor([7, -1, 3])
    settled = read_tree(model, tokens, tree, memories).settle(nodes)
    for row, node in enumerate(nodes.tolist()):
        mine = rows_of(memories, torch.tensor([row]))
        if node >= 0:
            _, mine = advance(model, tokens[row : row + 1, list(tree.path(node))], mine)
        same_memories(rows_of(settled, torch.tensor([row])), mine)


def test_following_stops_where_the_choice_was_not_drafted():
    tree = Tree.of([-1, 0, 0, 2, 2, 3])
    tokens = [9, 1, 2, 3, 4, 5]
    sure = [True] * 6

    def never(path: list[int]) -> int:
        raise AssertionError(path)

    assert follow(tree, tokens, [7, 0, 0, 0, 0, 0], sure, never) == (0, [7])
    assert follow(tree, tokens, [2, 0, 4, 0, 8, 0], sure, never) == (4, [2, 4, 8])
    assert follow(tree, tokens, [2, 0, 3, 5, 8, 6], sure, never) == (5, [2, 3, 5, 6])


def test_a_choice_that_is_not_sure_is_asked_for_with_the_path_to_it():
    tree, asked = Tree.chain(3), []

    def plain(path: list[int]) -> int:
        asked.append(list(path))
        return 5

    assert follow(tree, [9, 4, 5], [4, 0, 1], [True, False, True], plain) == (2, [4, 5, 1])
    assert asked == [[4]]


@torch.no_grad()
def test_a_fixed_tree_has_the_likeliest_beginnings_each_continued_greedily(model):
    pending = drawn(2, 1, seed=3)
    logits, memories = advance(model, torch.cat([drawn(2, 6), pending], dim=1))
    draft = draft_tree(model, Plan.parse("3x3"), pending[:, 0], logits, memories)
    assert draft.tree.links == (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6)
    assert torch.equal(draft.tokens[:, 0], pending[:, 0])
    assert torch.equal(draft.tokens[:, 1:4], logits.topk(3).indices)
    for node in range(1, 7):
        path = list(draft.tree.path(node))[1:]
        after, state = advance(model, draft.tokens[:, path], memories)
        child = draft.tree.children[node][0]
        assert torch.equal(draft.tokens[:, child], after.argmax(-1))
        same_memories(draft.memories([node, node]), state)
    mixed = draft.memories([2, 5])  # nodes of two levels
    for row, node in enumerate((2, 5)):
        same_memories(rows_of(mixed, torch.tensor([row])), rows_of(draft.memories([node] * 2), torch.tensor([row])))
    assert sorted(draft.read) == [0, 1, 2, 3, 4, 5, 6]


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_an_adaptive_tree_keeps_the_most_probable_paths(model, batch):
    pending = drawn(batch, 1, seed=3)
    logits, memories = advance(model, torch.cat([drawn(batch, 6), pending], dim=1))
    plan = Plan.parse("adaptive:6")
    draft = draft_tree(model, plan, pending[:, 0], logits, memories, cost=0.01)
    assert draft.tree.size - 1 <= 6
    found = []
    for node in range(1, draft.tree.size):
        path = list(draft.tree.path(node))[1:]
        chance = torch.ones(batch)
        for k, step in enumerate(path):
            before = logits if k == 0 else advance(model, draft.tokens[:, path[:k]], memories)[0]
            chance = chance * before.softmax(-1).gather(1, draft.tokens[:, step : step + 1])[:, 0]
        found.append(chance.mean().item())
    assert draft.promised == pytest.approx(sum(found), rel=1e-3)
    if batch == 1:  # no first token that was left out is likelier than a node that was kept
        kept = set(draft.tokens[0, list(draft.tree.children[0])].tolist())
        rest = [p for token, p in enumerate(logits.softmax(-1)[0].tolist()) if token not in kept]
        assert min(found) >= max(rest) * (1 - 1e-4)


@torch.no_grad()
def test_an_expensive_or_unreliable_drafter_drafts_less(model):
    pending = drawn(1, 1, seed=3)
    logits, memories = advance(model, torch.cat([drawn(1, 6), pending], dim=1))
    logits = 20 * logits  # a drafter that is sure of itself
    trusted, doubted = Confidence(), Confidence()
    for _ in range(20):
        trusted.observe(2.0, 2.0)
        doubted.observe(0.0, 2.0)
    assert trusted.factor == 1.0 > doubted.factor == pytest.approx(4 / 44)
    plan, arguments = Plan.parse("adaptive"), (pending[:, 0], logits, memories)
    levels = [
        len(draft_tree(model, plan, *arguments, confidence=confidence, cost=cost).levels)
        for confidence, cost in ((trusted, 0.01), (trusted, 10.0), (doubted, 1.0))
    ]
    assert levels[0] > levels[1] == levels[2] == 1


@pytest.mark.parametrize(
    "text", ["", "4", "0x3", "3x0", "x", "4x3x2", "-1x2", "adaptive:0", "adaptive:", "65x1", "32x32"]
)
def test_what_is_no_tree(text):
    with pytest.raises(UsageError, match="is no tree"):
        Plan.parse(text)


def test_trees_are_named_as_they_were_asked_for():
    assert [str(Plan.parse(text)) for text in ("4x3", " 1x1", "adaptive", "adaptive:7")] == [
        "4x3", "1x1", "adaptive", "adaptive:7",
    ]  # fmt: skip
    assert Plan.parse("4x3").nodes == 12


def test_links_are_found_by_weights_not_by_names(mamba2, tmp_path):
    one, two = mamba2.names
    assert links(mamba2, projected(mamba2, 3)) == {one: one, two: two}
    renamed = without(mamba2, [one])
    renamed = replace(renamed, norms={one: renamed.norms[two]}, mixers={one: renamed.mixers[two]})
    assert links(mamba2, renamed) == {one: two}
    assert links(mamba2, open_stack(ssmtool.load(byte_model(tmp_path / "other", "mamba2", seed=1)), "cpu")) is None
    assert links(mamba2, open_stack(ssmtool.load(byte_model(tmp_path / "mamba", "mamba")), "cpu")) is None
    assert links(projected(mamba2, 3), projected(mamba2, 4)) is None
    assert links(projected(mamba2, 3), projected(mamba2, 3)) == {one: one, two: two}


@torch.no_grad()
def test_a_projected_state_is_the_drafts_own_where_both_saw_the_same(mamba2):
    """In the first block; behind it a draft reads another stream."""
    draft, tokens = projected(mamba2, 5), drawn(3, 9)
    linked = links(mamba2, draft)
    assert linked is not None
    theirs, mine = advance(mamba2, tokens)[1], advance(draft, tokens)[1]
    found = projected_memories(linked, draft, theirs)
    block, behind = draft.names
    same_memories({block: found[block]}, {block: mine[block]})
    assert 0.01 < distance(found[behind][0].h, mine[behind][0].h) < 1


def test_memories_are_taken_apart_and_put_together():
    def memory(*values: float) -> dict[str, tuple[Memory, ...]]:
        h = torch.tensor(values)[:, None]
        return {"a": (Memory(None, h), Memory(h[:, None] + 100, h + 10))}

    whole = joined([memory(1, 2), memory(3)])
    assert whole["a"][1].h[:, 0].tolist() == [11, 12, 13]
    assert whole["a"][1].tail is not None
    assert rows_of(whole, torch.tensor([2, 0, 0]))["a"][0].h[:, 0].tolist() == [3, 1, 1]
    changed = replaced_rows(whole, torch.tensor([2, 0]), memory(7, 8))
    assert changed["a"][0].h[:, 0].tolist() == [8, 2, 7]
    assert changed["a"][1].tail is not None
    assert changed["a"][1].tail[:, 0, 0].tolist() == [108, 102, 107]


def test_bytes_are_those_of_the_tensors(tmp_path):
    model = ssmtool.load(byte_model(tmp_path / "model", "mamba2"))
    runner = open_stack(model, "cpu")
    assert weight_bytes(runner) == model.checkpoint.data_bytes  # float32, tied: everything is read but for one row more
    _, memories = advance(runner, drawn(1, 4))
    carried = sum(m.h.numel() + (0 if m.tail is None else m.tail.numel()) for row in memories.values() for m in row)
    assert state_bytes(runner) == 4 * carried
    small = facts(runner, without(runner, runner.names[:1]), "half")
    assert small.blocks == (2, 1)
    assert small.state_bytes[1] * 2 == small.state_bytes[0]


def test_arithmetic_of_a_round():
    found = DraftFacts("draft", (4, 2), ((8, 8), (8, 8)), weight_bytes=(100, 40), state_bytes=(10, 5))
    # plain: 100 + 2 * 10; drafting: 40 + 10, then 40 + 20; verifying and settling: 100 + 30
    assert traffic(found, {1: 1.0, 2: 1.0}, 1) == pytest.approx((50 + 60 + 130) / 120)
    assert traffic(found, {1: 2.0}, 32) == pytest.approx((2 * (40 + 320) + 100 + 960) / (100 + 640))
    shapes = Counter({((-1, 0), (1,)): 3, ((-1, 0, 0, 1), (1, 2)): 1})
    assert steps_by_width(shapes) == {1: 1.0, 2: 0.25}
    row = Economics(
        batch=1, tree=4, steps={1: 1.0}, plain=2.0, draft=1.0, verify=2.5, settle=0.5, tokens=3.0, most=5.0, traffic=1.5
    )
    assert (row.break_even, row.speedup, row.best, row.traffic_speedup) == (2.0, 1.5, 2.5, 2.0)


@pytest.fixture
def calibration() -> Tokens:
    path = Path(__file__).parents[2] / "fixtures" / "stdlib-calibration.npy"
    return Tokens(np.load(path)[:16, :64].astype(np.int64), "16 x 64 tokens", "0" * 64)


@torch.no_grad()
def test_drafts_of_several_sizes_come_from_one_realisation(tmp_path, calibration):
    model = ssmtool.load(byte_model(tmp_path / "model", "mamba2"))
    verifier = open_stack(model, "cpu")
    made = {row.name: row.model for row in candidates(model, verifier, calibration)}
    assert list(made) == ["2 states", "4 states", "8 states", "1 of 2 blocks", "1 of 2 blocks, 4 states"]
    for name in verifier.names:
        widest = made["8 states"].mixers[name][0]
        assert isinstance(widest, ScalarMixer)
        for rank in (2, 4):
            mixer = made[f"{rank} states"].mixers[name][0]
            assert isinstance(mixer, ScalarMixer)
            assert torch.equal(mixer.project_b, widest.project_b[:, :rank])
            assert torch.equal(mixer.project_c, widest.project_c[:, :rank])
            assert mixer.in_x is verifier.mixers[name][0].in_x  # nothing is copied
    assert all(links(verifier, draft) is not None for draft in made.values())


@torch.no_grad()
def test_drafts_of_mamba1_keep_states(tmp_path, calibration):
    model = ssmtool.load(byte_model(tmp_path / "model", "mamba"))
    verifier = open_stack(model, "cpu")
    made = {row.name: row.model for row in candidates(model, verifier, calibration)}
    assert list(made) == ["1 states", "2 states", "4 states", "1 of 2 blocks", "1 of 2 blocks, 2 states"]
    assert made["2 states"].mixers[verifier.names[0]][0].states == 2


def test_the_fastest_draft_is_taken(mamba2):
    drafts = [Candidate("itself", mamba2), Candidate("half", without(mamba2, mamba2.names[1:]))]
    pair, name, trials = best_draft(mamba2, drafts, Plan.parse("1x2"), [drawn(1, 5), drawn(1, 9)])
    speeds = {trial.draft.name: trial.tokens_per_second for trial in trials}
    assert list(speeds) == ["itself", "half"]
    assert name == max(speeds, key=lambda k: speeds[k])
    assert pair.draft is next(row.model for row in drafts if row.name == name)
    assert trials[0].tokens_per_round == pytest.approx(3.0, abs=0.15)  # but for the last round of each prompt
    assert paired(mamba2, drafts[1].model).cost < 1
