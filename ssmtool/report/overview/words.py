"""The summary: what the numbers mean for whoever has to decide something, the most important first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from ssmtool.pipeline.portrait import LayerPortrait, Portrait
from ssmtool.report.facts import layer_share, share
from ssmtool.report.overview.ranks import least_rank, total_bytes
from ssmtool.report.overview.view import Ranks
from ssmtool.report.text.numbers import percent, plural, size, sizes
from ssmtool.shown import NO_BREAK


def summary(found: Portrait, ranks: Ranks) -> tuple[str, ...]:
    """Sentences about the model as a whole."""
    said = [_what(found), *_droppable(found, ranks), *_extremes(ranks)]
    said += _stability(found.layers)
    said += _reduced(found)
    said += _language(found)
    return tuple(re.sub(r"(?<=\d) (?=%|[kMG]?B\b)", NO_BREAK, text) for text in said)  # no unit begins a line


def _what(found: Portrait) -> str:
    layers = [row.layer for row in found.layers]
    families = Counter(layer.family for layer in layers)
    kinds = Counter("linear" if layer.lti else "selective" for layer in layers)
    made = ", ".join(f"{count} {kind}" if len(kinds) > 1 else kind for kind, count in kinds.items())
    total = share(found.model.checkpoint.tensors.values())
    ours = layer_share(found.model, layers)
    states = sum(layer.systems * (layer.order if layer.lti else layer.slots) for layer in layers)
    return (
        f"{plural(len(layers), 'state-space layer')} of the {_list(sorted(families))} "
        f"{'family' if len(families) == 1 else 'families'} ({made}) with {states:,} states in all. They hold "
        f"{percent(ours.parameters, total.parameters)} of the checkpoint's {total.parameters:,} parameters, "
        f"{size(ours.bytes)} of {size(total.bytes)}."
    )


def _droppable(found: Portrait, ranks: Ranks) -> list[str]:
    known = [layer for layer in ranks.layers if any(b is not None for b in layer.bound)]
    if not known:
        return []
    needed = [(layer, least_rank(layer, ranks.ranks, ranks.tolerance)) for layer in known]
    kept = [layer.order if rank is None else rank for layer, rank in needed]
    stored = [layer.order for layer in known]
    spared = 1 - sum(kept) / sum(stored)
    selective = all(layer.selective for layer in known)
    what = "a predicted error" if selective else "an error bound" if not any(x.selective for x in known) else "an error"
    of = "of its output" if selective else "relative to σ₁"
    if any(layer.selective for layer in known) and not selective:
        of = f"{of}, or of a selective layer's output,"
    if spared < 0.01:
        return [
            f"For {what} of {ranks.tolerance:g} {of} nearly all states are needed: there is little to drop for nothing."
        ]
    text = (
        f"For {what} of {ranks.tolerance:g} {of} in every layer, {percent(spared, 1)} of the states can go: "
        f"{_range(kept)} of {_range(stored)} per {ranks.per} are needed."
    )
    most = max(kept)
    whole = total_bytes(ranks, int(np.searchsorted(ranks.ranks, most)))
    if whole is not None and whole < ranks.total:
        text += (
            f" With {most} in all of them the checkpoint is predicted to shrink from {sizes(ranks.total, whole)} "
            f"({percent(ranks.total - whole, ranks.total)} less)."
        )
    return [text]


def _extremes(ranks: Ranks) -> list[str]:
    needed = [
        (rank / layer.order, layer.name, rank, layer.order)
        for layer in ranks.layers
        if (rank := least_rank(layer, ranks.ranks, ranks.tolerance)) is not None and layer.order
    ]
    if len(needed) < 2:
        return []
    least, most = min(needed), max(needed)
    if least[0] == most[0]:
        return [f"All layers need equally many of their states, {least[2]} of {least[3]}."]
    return [
        f"Easiest to compress is {least[1]}, which needs {least[2]} of {least[3]}; hardest is {most[1]}, which needs "
        f"{most[2]} of {most[3]}."
    ]


def _stability(rows: Sequence[LayerPortrait]) -> list[str]:
    said = []
    unstable = [(row.layer.name, int(row.spectrum.unstable.sum())) for row in rows if row.spectrum is not None]
    unstable = [(name, count) for name, count in unstable if count]
    if unstable:
        total = sum(count for _, count in unstable)
        said.append(
            f"{plural(total, 'state')} on or outside the unit circle in {_names(n for n, _ in unstable)}: without a "
            "finite Hankel singular value, kept by every reduction."
        )
    redundant = [(row.layer.name, int(row.spectrum.redundant.sum())) for row in rows if row.spectrum is not None]
    redundant = [(name, count) for name, count in redundant if count]
    if redundant:
        total = sum(count for _, count in redundant)
        said.append(
            f"{plural(total, 'state')} in {_names(n for n, _ in redundant)} "
            f"{'is' if total == 1 else 'are'} exactly redundant and can go without any error."
        )
    return said


def _reduced(found: Portrait) -> list[str]:
    if found.reduced is None:
        return []
    before, after = found.model.checkpoint.data_bytes, found.reduced.checkpoint.data_bytes
    text = f"The reduced model {found.reduced.checkpoint.path.name}"
    target = found.record.get("target")
    if isinstance(target, str) and target:
        text += f", made for {target},"
    text += f" takes {sizes(before, after)} ({percent(after, before)})"
    errors = [
        (row.partner.error, row.layer.name) for row in found.layers if row.partner and row.partner.error is not None
    ]
    if errors:
        worst = max(errors)
        text += f"; its largest H∞ error is {said_number(worst[0])} σ₁, in {worst[1]}"
    said = [text + "."]
    if found.validation is not None:
        failed = [layer.name for layer in found.validation.layers if not layer.passed]
        speed = [
            layer.seconds_original / layer.seconds_reduced
            for layer in found.validation.layers
            if layer.seconds_reduced > 0
        ]
        verdict = (
            "Every compared layer stays within its certified bound on noise, impulse and step inputs"
            if not failed
            else f"{plural(len(failed), 'layer')} failed the comparison: {_names(failed)}"
        )
        if speed:
            verdict += (
                f"; a scan takes {1 / np.median(speed):.2f} of its former time (median of the layers, "
                f"{found.validation.device})"
            )
        said.append(verdict + ".")
    return said


def _language(found: Portrait) -> list[str]:
    if found.language is None:
        return []
    language = found.language.language
    return [
        f"On {found.language.tokens.description}, the perplexity goes from {language.perplexity_original:.4g} to "
        f"{language.perplexity_reduced:.4g} ({language.increase:+.2f} %), the mean KL divergence is "
        f"{language.kl:.3g} nats, and {percent(language.agreement, 1)} of the likeliest next tokens agree."
    ]


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _names(names: Iterable[str]) -> str:
    found = list(names)
    return _list(found) if len(found) <= 3 else f"{found[0]} and {len(found) - 1} more layers"


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def said_number(value: float) -> str:
    """Two digits, as a sentence holds them: 0.0075, 3.2e−05 (with a minus that no line is broken at)."""
    return f"{value:.2g}".replace("-", "−")
