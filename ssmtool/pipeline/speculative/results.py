"""What speculative decoding did, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssmtool.pipeline.speculative.decode import Tally


@dataclass(frozen=True)
class DraftFacts:
    """A drafter beside its verifier.

    Attributes:
        name: path, or what was made in memory.
        blocks: of the verifier, of the draft.
        states: the smallest and the largest number of states per channel or head, of the verifier and of the draft.
        weight_bytes: read by one step, of the verifier and of the draft.
        state_bytes: carried per sequence, of both.
    """

    name: str
    blocks: tuple[int, int]
    states: tuple[tuple[int, int], tuple[int, int]]
    weight_bytes: tuple[int, int]
    state_bytes: tuple[int, int]


@dataclass(frozen=True)
class Economics:
    """What a round costs at one batch size, in seconds of the whole batch: a mean over the rounds that were decoded.

    Attributes:
        batch: sequences.
        tree: drafted tokens per round and sequence.
        steps: of the drafter per round, by the number of candidates it reads for a sequence at a time.
        plain: one step of plain decoding.
        draft: all steps of the drafter in a round.
        verify: the verifying pass over the most frequent tree.
        settle: moving both memories to the accepted node.
        tokens: new tokens per round and sequence, as measured.
        most: new tokens per round if the deepest branch is right.
        traffic: bytes a round reads and writes (weights once per call, states once per sequence) over those of a plain
            step.
    """

    batch: int
    tree: float
    steps: Mapping[int, float]
    plain: float
    draft: float
    verify: float
    settle: float
    tokens: float
    most: float
    traffic: float

    @property
    def round(self) -> float:
        """Seconds of a round."""
        return self.draft + self.verify + self.settle

    @property
    def break_even(self) -> float:
        """New tokens per round at which a round costs as much as plain decoding of them: round / plain."""
        return self.round / self.plain

    @property
    def speedup(self) -> float:
        """At the measured acceptance."""
        return self.tokens / self.break_even

    @property
    def best(self) -> float:
        """If everything on the deepest branch were accepted."""
        return self.most / self.break_even

    @property
    def traffic_speedup(self) -> float:
        """At the measured acceptance, on a machine whose time is the bytes it moves."""
        return self.tokens / self.traffic


@dataclass(frozen=True)
class Trial:
    """A draft that `--draft auto` tried: tokens per second and new tokens per round, on a few prompts."""

    draft: DraftFacts
    tokens_per_second: float
    tokens_per_round: float


@dataclass(frozen=True)
class Speculation:
    """Result of `speculate`.

    Attributes:
        draft: the drafter.
        trials: of `--draft auto`; empty otherwise.
        tree: plan of the trees.  sync: "project" or "replay".
        length: tokens decoded per prompt.  batch: prompts decoded at a time.
        tokens: the continuations, by prompt.
        identical: prompts whose continuation is that of plain greedy decoding.
        tally: counts.
        seconds_plain, seconds: wall time of all continuations; the drafter's reading of the prompts is in the second.
        economics: by batch size.
        device: where it ran.
    """

    draft: DraftFacts
    trials: tuple[Trial, ...]
    tree: str
    sync: str
    length: int
    batch: int
    tokens: tuple[tuple[int, ...], ...]
    identical: int
    tally: Tally
    seconds_plain: float
    seconds: float
    economics: tuple[Economics, ...]
    device: str

    @property
    def prompts(self) -> int:
        """How many."""
        return len(self.tokens)

    @property
    def passed(self) -> bool:
        """Whether every continuation is that of plain greedy decoding."""
        return self.identical == self.prompts

    @property
    def accepted_length(self) -> float:
        """Drafted tokens accepted per round."""
        return self.tally.accepted / max(self.tally.rounds, 1)

    @property
    def plain_calls(self) -> int:
        """Calls of the verifier that plain decoding makes: the first token comes from the prompt."""
        return self.prompts * (self.length - 1)

    @property
    def calls(self) -> int:
        """Calls of the verifier, single steps where two tokens were too close included."""
        return self.tally.rounds + self.tally.plain_steps

    @property
    def saved(self) -> float:
        """Share of the verifier's calls saved."""
        return 1 - self.calls / self.plain_calls if self.plain_calls else 0.0

    @property
    def speedup(self) -> float:
        """Wall time of plain decoding over that of speculative decoding."""
        return self.seconds_plain / self.seconds
