"""ssmtool check: do checkpoints keep what a policy asks of them?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmtool import plugins
from ssmtool.cli._options import (
    CHECKPOINT,
    AddressOption,
    CacheOption,
    Device,
    DeviceOption,
    EngineName,
    EngineOption,
    FamilyOption,
    JobsOption,
    JsonOption,
    LayerOption,
    NoCacheOption,
    checked_device,
    chosen_cache,
    chosen_engine,
    examples,
    quiet_option,
)
from ssmtool.cli._policy import RULES, PolicyOption, SetOption, policy_tokens, resolved, rules
from ssmtool.cli._progress import Bar
from ssmtool.cli._tokens import (
    BytesOption,
    LengthOption,
    SelfOption,
    SequencesOption,
    TextOption,
    TokensOption,
)

if TYPE_CHECKING:
    from ssmtool.cache import Cache
    from ssmtool.checks.findings import Check
    from ssmtool.checks.policy import Policy
    from ssmtool.pipeline.engines._contract import Engine

EXAMPLES = examples(
    "ssmtool check model.safetensors",
    "ssmtool check model.safetensors --set order.max=32 --set order.energy=0.999",
    "ssmtool check models/*.safetensors --format text --format junit:report.xml",
    "ssmtool check model.safetensors --baseline last-release.json --strict",
    "ssmtool check mamba-130m --tokens held-out.npy --json > check.json",
)


def command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help=f"Checkpoints: {CHECKPOINT}.", show_default=False)
    ],
    policy: PolicyOption = None,
    changes: SetOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="RULE",
            autocompletion=rules,
            help=f"Only this rule; may be repeated. Rules: {', '.join(plugins.names(RULES))}.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Compare with an earlier JSON document of ssmtool."),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT[:FILE]",
            help="text, json, junit, github or markdown, to a file if one is named; may be repeated.",
            show_default="text",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever is found.")] = False,
    tokens: TokensOption = None,
    text: TextOption = None,
    as_bytes: BytesOption = False,
    sampled: SelfOption = None,
    length: LengthOption = None,
    sequences: SequencesOption = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Of --self.", show_default="0")] = None,
    layers: LayerOption = None,
    family: FamilyOption = None,
    device: DeviceOption = Device.auto,
    jobs: JobsOption = 1,
    engine: EngineOption = EngineName.local,
    address: AddressOption = None,
    cache: CacheOption = None,
    no_cache: NoCacheOption = False,
    json: JsonOption = False,
    quiet: Annotated[bool, quiet_option("the findings only, on standard error")] = False,
) -> None:
    """Hold checkpoints against a policy.

    Rules on stability, redundant states, the orders that layers need, memory, what compress would make of them, and
    that nothing got worse since a baseline: docs/check.md. Without a policy file: no unstable states; redundant ones
    are a warning, and so are layers that need over 10 % more states than in the baseline.

    Exit code 1 when the policy does not hold.
    """
    from ssmtool.cli._formats import parse_formats, put_out

    wanted = parse_formats(formats, json)
    where, kept = checked_device(device, engine), chosen_cache(cache, no_cache)
    given = {"tokens": tokens, "text": text, "bytes": as_bytes or None, "self": sampled}
    given |= {"length": length, "sequences": sequences, "seed": seed, "baseline": baseline, "layers": layers}
    asked = _with_options(resolved(policy, changes), given, only)
    with Bar(quiet) as bar, chosen_engine(engine, address, jobs) as workers:
        found = _check(models, asked, family, where, kept, workers, bar)
    options: dict[str, Any] = {
        "policy": policy, "set": changes, "rule": only, "format": formats, "strict": strict, "exit_zero": exit_zero,
        "family": family, "device": device.value, "jobs": jobs, "engine": engine.value,
        **{key: asked.value(key) for key in asked.settings},
    }  # fmt: skip
    put_out(found, wanted, strict, options, quiet)
    if quiet:
        for finding in found.findings:
            if finding.status in ("error", "warning"):
                from ssmtool.shown import printable

                words = f"{finding.status}: {finding.identifier}: {finding.layer or 'model'}: {finding.message}"
                print(f"ssmtool: {printable(words)}", file=sys.stderr)
    if not found.passed(strict) and not exit_zero:
        raise typer.Exit(1)


def _with_options(policy: Policy, given: dict[str, Any], only: list[str] | None) -> Policy:
    """The policy with what was given on the command line. Raises UsageError."""
    from ssmtool.errors import UsageError

    if any(given[key] is not None for key in ("tokens", "text", "self")):  # one source of tokens takes another's place
        for key in ("tokens", "text", "bytes", "self"):
            policy = policy.with_setting(key, False if key == "bytes" else None)
    for key, value in given.items():
        if value is not None:
            policy = policy.with_setting(key, str(value) if isinstance(value, Path) else value)
    for rule in only or ():
        if rule not in plugins.names(RULES):
            raise UsageError(f"there is no rule {rule!r}", remedy=f"Rules: {', '.join(plugins.names(RULES))}")
        if all(entry.rule != rule for entry in policy.entries):
            raise UsageError(
                f"the policy has no rule {rule!r}", remedy=f"Add it, for example with --set {rule}.severity=error"
            )
    return policy.only(only) if only else policy


def _check(
    models: list[str], policy: Policy, family: str | None, device: str, cache: Cache, engine: Engine, bar: Bar
) -> Check:
    from ssmtool.checks.check import check
    from ssmtool.pipeline.model import load

    source = policy_tokens(policy)
    baseline = None
    if policy.value("baseline") is not None:
        from ssmtool.checks.baseline import read_baseline

        baseline = read_baseline(policy.value("baseline"))
    return check(
        [load(model, family=family) for model in models],
        policy,
        cache=cache,
        engine=engine,
        source=source,
        baseline=baseline,
        device=device,
        step=bar.step,
    )
