"""What plain decoding, drafting and verifying cost at several batch sizes, on this machine and in bytes moved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssmtool.pipeline.generate import Memories, advance
from ssmtool.pipeline.speculate_decode import Pair, Shape, Start
from ssmtool.pipeline.speculate_memories import joined, rows_of
from ssmtool.pipeline.speculate_sync import projected_memories
from ssmtool.pipeline.speculate_verify import Verified, read_tree
from ssmtool.pipeline.speculation import DraftFacts, Economics
from ssmtool.selective.language import LanguageModel
from ssmtool_kernels.tree import Tree

RUNS = 7  # of every part, in turns; the best counts


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of weights one decoding step reads: mixers, norms and head; of the embedding only a row."""
    fields = [
        value
        for name in model.names
        for mixer in model.mixers[name]
        for value in vars(mixer).values()
        if isinstance(value, Tensor)
    ]
    tensors = [model.head, model.final_norm, *model.norms.values(), *fields]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def state_bytes(model: LanguageModel) -> int:
    """Bytes a sequence carries from token to token."""
    total = 0
    for name in model.names:
        for mixer in model.mixers[name]:
            taps = 0 if mixer.conv is None else mixer.conv.shape[0] * (mixer.conv.shape[1] - 1)
            total += (mixer.state_size + taps) * mixer.out.element_size()
    return total


def facts(verifier: LanguageModel, draft: LanguageModel, name: str) -> DraftFacts:
    """Sizes of a drafter beside its verifier."""
    states = [mixer.scanned for parts in draft.mixers.values() for mixer in parts]
    return DraftFacts(
        name=name,
        blocks=(len(verifier.names), len(draft.names)),
        states=(min(states), max(states)),
        weight_bytes=(weight_bytes(verifier), weight_bytes(draft)),
        state_bytes=(state_bytes(verifier), state_bytes(draft)),
    )


@torch.no_grad()
def economics(
    pair: Pair, shape: Shape, starts: Sequence[Start], mine: Memories, tokens: float, batch: int
) -> Economics:
    """Measure the parts of a round at one batch size.

    Args:
        pair: verifier and drafter.
        shape: of the tree: parents, and widths of the levels the drafter reads.
        starts: prompts the verifier has read; repeated to fill the batch.
        mine: the drafter's memories after the first of them, a batch of one.
        tokens: new tokens per round, as measured.
        batch: sequences.
    """
    links, widths = shape
    device = pair.verifier.embedding.device
    tree = Tree.of(links).to(device)
    known = joined([starts[i % len(starts)].memories for i in range(batch)])
    last = torch.cat([starts[i % len(starts)].logits.argmax(-1) for i in range(batch)])
    drafted = last[:, None].expand(-1, tree.size).contiguous()
    levels = [(width, rows_of(mine, torch.zeros(batch * width, dtype=torch.int64, device=device))) for width in widths]
    verified: list[Verified] = []
    nodes = torch.full((batch,), int(tree.depths.argmax()), device=device)

    def plain() -> None:
        advance(pair.verifier, last[:, None], known)

    def draft() -> None:
        for width, memories in levels:
            advance(pair.draft, last.repeat_interleave(width)[:, None], memories)

    def verify() -> None:
        verified[:] = [read_tree(pair.verifier, drafted, tree, known)]

    def settle() -> None:
        after = verified[0].settle(nodes)
        if pair.links is not None:
            projected_memories(pair.links, pair.draft, after)
        else:
            rows_of(levels[-1][1], torch.arange(batch, device=device) * levels[-1][0])

    seconds = _best((plain, draft, verify, settle), device)
    return Economics(
        batch=batch,
        tree=tree.size - 1,
        widths=widths,
        plain=seconds[0],
        draft=seconds[1],
        verify=seconds[2],
        settle=seconds[3],
        tokens=tokens,
        most=int(tree.depths.max()) + 1,
        traffic=traffic(facts(pair.verifier, pair.draft, ""), widths, batch),
    )


def traffic(found: DraftFacts, widths: Sequence[int], batch: int) -> float:
    """Bytes moved by a round over those of a plain step.

    A plain step reads the weights once, and reads and writes a state per sequence. A round does so with the draft's for
    every level, reads the verifier's weights and states once, and the states once more, with a write, for the accepted
    path.
    """
    weights, small = found.weight_bytes
    state, smaller = found.state_bytes
    drafting = sum(small + 2 * batch * width * smaller for width in widths)
    return (drafting + weights + 3 * batch * state) / (weights + 2 * batch * state)


def _best(parts: Sequence[Callable[[], None]], device: torch.device) -> list[float]:
    """Seconds of every part: the best of several runs in turns, after one that does not count."""
    best = [math.inf] * len(parts)
    for run in range(RUNS + 1):
        for i, part in enumerate(parts):
            _wait(device)
            begin = time.perf_counter()
            part()
            _wait(device)
            if run:
                best[i] = min(best[i], time.perf_counter() - begin)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
