"""Greedy decoding with a drafter: the same tokens as plain greedy decoding, with fewer passes of the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssmtool.pipeline.generate import Memories, advance
from ssmtool.pipeline.speculative.draft import Draft, draft_tree
from ssmtool.pipeline.speculative.memories import joined, replaced_rows, rows_of
from ssmtool.pipeline.speculative.plan import Confidence, Plan
from ssmtool.pipeline.speculative.sync import projected_memories
from ssmtool.pipeline.speculative.verify import PlainPath, Verified, follow, read_tree
from ssmtool.selective.language import LanguageModel

Shape = tuple[tuple[int, ...], tuple[int, ...]]  # parents of a tree, and widths of the levels the drafter read


@dataclass(frozen=True)
class Pair:
    """A verifier and its drafter.

    Attributes:
        verifier, draft: models of one vocabulary; mixers that read forwards.
        links: draft layer -> verifier layer, for a drafter whose state is the verifier's, projected; None for one that
            reads the accepted tokens itself.
        cost: of a step of the drafter over one of the verifier, by the weights they read.
    """

    verifier: LanguageModel
    draft: LanguageModel
    links: dict[str, str] | None
    cost: float


@dataclass
class Tally:
    """What was done, summed over sequences unless said otherwise.

    Attributes:
        rounds: verifications of a tree.
        accepted: drafted tokens that were right.
        drafted: drafted tokens.
        draft_steps: calls of the drafter, of the whole batch.
        plain_steps: single tokens read by the verifier because two choices were too close to each other.
        shapes: trees and how often they were drafted.
    """

    rounds: int = 0
    accepted: int = 0
    drafted: int = 0
    draft_steps: int = 0
    plain_steps: int = 0
    shapes: Counter[Shape] = field(default_factory=Counter)

    def count(self, draft: Draft, sequences: int, accepted: int) -> None:
        """A round of so many sequences."""
        self.rounds += sequences
        self.accepted += accepted
        self.drafted += sequences * (draft.tree.size - 1)
        self.draft_steps += len(draft.levels) - 1
        self.shapes[draft.tree.links, tuple(level.width for level in draft.levels)] += 1

    def add(self, other: Tally) -> None:
        """Sums of both."""
        self.rounds += other.rounds
        self.accepted += other.accepted
        self.drafted += other.drafted
        self.draft_steps += other.draft_steps
        self.plain_steps += other.plain_steps
        self.shapes += other.shapes


@dataclass(frozen=True)
class Start:
    """A prompt the verifier has read, as a batch of one.

    Attributes:
        tokens: (1, L).  logits: (1, V) after the last one.  memories: after the last one.
    """

    tokens: Tensor
    logits: Tensor
    memories: Memories


def start(verifier: LanguageModel, prompt: Tensor) -> Start:
    """Read a prompt (1, L), L >= 1."""
    return Start(prompt, *advance(verifier, prompt))


class _Sequence:
    """One sequence in the making.

    Attributes:
        tokens: after the prompt, so far.
        unread: the last of them, which the drafter has not read.
    """

    def __init__(self, pair: Pair, begun: Start) -> None:
        self.tokens = [int(begun.logits.argmax(-1))]
        self.unread = self.tokens[-1:]
        self.plain = PlainPath(pair.verifier, begun.memories)

    def follow(self, draft: Draft, tokens: list[int], best: list[int], sure: list[bool]) -> tuple[int, int]:
        """Move along the verifier's choices; the accepted node, and how many drafted tokens were right."""
        node, found = follow(draft.tree, tokens, best, sure, lambda path: self.plain.best(self.tokens + path))
        self.tokens += found
        self.unread = found[-1:] if node in draft.read else found[-2:]
        return node, len(found) - 1


@torch.no_grad()
def decode(pair: Pair, plan: Plan, starts: list[Start], length: int) -> tuple[list[list[int]], Tally]:
    """The greedy continuations of a batch of prompts.

    Every round the drafter reads the last certain tokens and grows a tree, the verifier reads the tree in one pass, and
    each sequence moves on along the verifier's own choices. Sequences that are long enough leave the batch.

    Args:
        pair: verifier and drafter.
        plan: shape of the trees.
        starts: prompts, from `start` with the same verifier.
        length: tokens of each continuation, at least 1.

    Returns:
        `length` tokens for every prompt, equal to those of `greedy` on each prompt alone; and the tally.
    """
    tally, confidence = Tally(), Confidence()
    sequences = [_Sequence(pair, begun) for begun in starts]
    running = sequences if length > 1 else []
    known = joined([begun.memories for begun in starts])
    mine = _prompted(pair, starts, known)
    while running:
        logits, mine = _caught_up(pair, running, mine, tally)
        pending = torch.tensor([sequence.tokens[-1] for sequence in running], device=logits.device)
        draft = draft_tree(pair.draft, plan, pending, logits, mine, confidence=confidence, cost=pair.cost)
        verified = read_tree(pair.verifier, draft.tokens, draft.tree, known)
        answers = zip(draft.tokens.tolist(), verified.best.tolist(), verified.sure.tolist(), strict=True)
        moves = [sequence.follow(draft, *answer) for sequence, answer in zip(running, answers, strict=True)]
        right = sum(count for _, count in moves)
        confidence.observe(right / len(running), draft.promised)
        # The last token of a round is the verifier's own: of those beyond the end, all others were drafted.
        surplus = sum(max(0, len(sequence.tokens) - length - 1) for sequence in running)
        tally.count(draft, len(running), right - surplus)
        going = [i for i, sequence in enumerate(running) if len(sequence.tokens) < length]
        if going:
            known, mine = _settled(pair, draft, verified, [node for node, _ in moves], going)
        running = [running[i] for i in going]
    tally.plain_steps = sum(sequence.plain.steps for sequence in sequences)
    return [sequence.tokens[:length] for sequence in sequences], tally


def _prompted(pair: Pair, starts: list[Start], known: Memories) -> Memories:
    """The drafter's memories after the prompts."""
    if pair.links is not None:
        return projected_memories(pair.links, pair.draft, known)
    return joined([advance(pair.draft, begun.tokens)[1] for begun in starts])


def _caught_up(pair: Pair, running: list[_Sequence], memories: Memories, tally: Tally) -> tuple[Tensor, Memories]:
    """The drafter reads what it has not read: the last token, or two where a whole branch was right."""
    device = pair.draft.embedding.device
    if pair.links is not None:
        unread = [sequence.tokens[-1:] for sequence in running]
    else:
        unread = [sequence.unread for sequence in running]
    behind = [i for i, tokens in enumerate(unread) if len(tokens) > 1]
    if behind and len(behind) < len(running):
        rows = torch.tensor(behind, device=device)
        first = torch.tensor([unread[i][:1] for i in behind], device=device)
        memories = replaced_rows(memories, rows, advance(pair.draft, first, rows_of(memories, rows))[1])
        unread = [tokens[-1:] for tokens in unread]
        tally.draft_steps += 1
    tally.draft_steps += 1
    return advance(pair.draft, torch.tensor(unread, device=device), memories)


def _settled(
    pair: Pair, draft: Draft, verified: Verified, nodes: list[int], going: list[int]
) -> tuple[Memories, Memories]:
    """Memories of both models after the accepted paths, of the sequences that go on."""
    device = draft.tokens.device
    known = verified.settle(torch.tensor(nodes, device=device))
    if pair.links is None:
        mine = draft.memories([node if node in draft.read else draft.tree.links[node] for node in nodes])
    else:
        mine = projected_memories(pair.links, pair.draft, known)
    if len(going) < len(nodes):
        rows = torch.tensor(going, device=device)
        known, mine = rows_of(known, rows), rows_of(mine, rows)
    return known, mine
