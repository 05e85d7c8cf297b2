"""What plain decoding, drafting and verifying cost at several batch sizes, on this machine and in bytes moved."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ssmtool.pipeline.generate import Memories, advance
from ssmtool.pipeline.speculative.decode import Pair, Shape, Start, Tally
from ssmtool.pipeline.speculative.memories import joined, rows_of
from ssmtool.pipeline.speculative.results import DraftFacts, Economics
from ssmtool.pipeline.speculative.sync import projected_memories
from ssmtool.pipeline.speculative.verify import Verified, read_tree
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
    return DraftFacts(
        name=name,
        blocks=(len(verifier.names), len(draft.names)),
        states=(_states(verifier), _states(draft)),
        weight_bytes=(weight_bytes(verifier), weight_bytes(draft)),
        state_bytes=(state_bytes(verifier), state_bytes(draft)),
    )


def _states(model: LanguageModel) -> tuple[int, int]:
    found = [mixer.scanned for parts in model.mixers.values() for mixer in parts]
    return min(found), max(found)


@torch.no_grad()
def economics(pair: Pair, tally: Tally, starts: Sequence[Start], mine: Memories, batch: int) -> Economics:
    """Measure the parts of a round at one batch size.

    Args:
        pair: verifier and drafter.
        tally: of the rounds that were decoded, at least one.
        starts: prompts the verifier has read; repeated to fill the batch.
        mine: the drafter's memories after the first of them, a batch of one.
        batch: sequences.
    """
    device = pair.verifier.embedding.device
    tree = Tree.of(tally.shapes.most_common(1)[0][0][0]).to(device)
    steps = steps_by_width(tally.shapes)
    known = joined([starts[i % len(starts)].memories for i in range(batch)])
    last = torch.cat([starts[i % len(starts)].logits.argmax(-1) for i in range(batch)])
    drafted = last[:, None].expand(-1, tree.size).contiguous()
    wide = {width: rows_of(mine, torch.zeros(batch * width, dtype=torch.int64, device=device)) for width in steps}
    verified: list[Verified] = []
    nodes = torch.full((batch,), int(tree.depths.argmax()), device=device)

    def plain() -> None:
        advance(pair.verifier, last[:, None], known)

    def verify() -> None:
        verified[:] = [read_tree(pair.verifier, drafted, tree, known)]

    def settle() -> None:
        after = verified[0].settle(nodes)
        if pair.links is not None:
            projected_memories(pair.links, pair.draft, after)
        else:
            rows_of(wide[1], torch.arange(batch, device=device))

    def draft(width: int) -> Callable[[], object]:
        return lambda: advance(pair.draft, last.repeat_interleave(width)[:, None], wide[width])

    seconds = _best((plain, verify, settle, *map(draft, steps)), device)
    rounds = tally.shapes.total()
    return Economics(
        batch=batch,
        tree=tally.drafted / tally.rounds,
        steps=steps,
        plain=seconds[0],
        draft=sum(count * time for count, time in zip(steps.values(), seconds[3:], strict=True)),
        verify=seconds[1],
        settle=seconds[2],
        tokens=tally.accepted / tally.rounds + 1,
        most=sum(count * (1 + _depth(links)) for (links, _), count in tally.shapes.items()) / rounds,
        traffic=traffic(facts(pair.verifier, pair.draft, ""), steps, batch),
    )


def steps_by_width(shapes: Counter[Shape]) -> dict[int, float]:
    """Steps of the drafter per round, by the candidates it reads at a time; width 1 is always among them."""
    found = Counter({1: 0})
    for (_, widths), count in shapes.items():
        for width in widths:
            found[width] += count
    return {width: count / shapes.total() for width, count in sorted(found.items())}


def _depth(links: Sequence[int]) -> int:
    """Levels below node 0."""
    depths: list[int] = []
    for parent in links:
        depths.append(0 if parent < 0 else depths[parent] + 1)
    return max(depths)


def traffic(found: DraftFacts, steps: Mapping[int, float], batch: int) -> float:
    """Bytes moved by a round over those of a plain step.

    A plain step reads the weights once, and reads and writes a state per sequence. A round does so with the draft's for
    every step, reads the verifier's weights and states once, and the states once more, with a write, for the accepted
    path.
    """
    weights, small = found.weight_bytes
    state, smaller = found.state_bytes
    drafting = sum(count * (small + 2 * batch * width * smaller) for width, count in steps.items())
    return (drafting + weights + 3 * batch * state) / (weights + 2 * batch * state)


def _best(parts: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
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
