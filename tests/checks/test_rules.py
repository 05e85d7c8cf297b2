"""The number every rule measures, against textbook formulas; and what every rule file has to provide."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ssmtool import load, plugins
from ssmtool.checks.policy_file import read_policy
from ssmtool.checks.rules._contract import RuleKeys
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.tokens import TokenSource
from tests.checks.models import checked, impulse, parts, sigma, values, write
from tests.pipeline.language_models import byte_model

RULES = plugins.names("ssmtool.checks.rules")
NEEDED = {
    "sigma_tail": ("sigma_tail.beyond=2",), "reduced_size": ("reduced_size.rank=4",),
    "reduced_error": ("reduced_error.rank=4",),
}  # fmt: skip
PAGE = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")

# The truth is from Lyapunov equations in float64: eigenvalues of P Q lose half the digits of small values.
RELATIVE, ABSOLUTE = 1e-6, 1e-7


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model.safetensors", {"a": parts(0), "b": parts(1)})


@pytest.fixture(scope="module")
def mamba(tmp_path_factory):
    return byte_model(tmp_path_factory.mktemp("mamba") / "m", "mamba2")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (16, 32)))
    return TokenSource(file)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_the_contract_and_is_documented(rule):
    module = plugins.load("ssmtool.checks.rules", rule)
    assert issubclass(module.Keys, RuleKeys)
    assert module.SUMMARY
    row = re.search(rf"^\| `{rule}` \|.*$", PAGE, re.MULTILINE)
    assert row, f"docs/check.md has no row about {rule}"
    entry = read_policy(None, NEEDED.get(rule, (f"{rule}.severity=error",))).entries[-1]
    for key, _ in entry.keys:
        assert f"`{key}`" in row[0]
    assert module.title(dict(entry.keys))
    for limit in entry.limits:
        assert f"`{limit.kind} = {limit.text}`" in row[0]
    assert ("warn" if rule in ("redundant", "convergent") else "error") in row[0]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_says_something_about_every_kind_of_layer(rule, model, mamba):
    """A number, or a reason; without tokens, which many need."""
    for path in (model, mamba):
        found = checked(path, *NEEDED.get(rule, (f"{rule}.severity=warn",)))
        assert len(found.findings) == 2
        for finding in found.findings:
            assert (finding.value is None) == bool(finding.reason)


@pytest.mark.parametrize("over", ["largest", "median", "smallest"])
def test_order_for_a_share_of_the_sum(model, over):
    for name, found in zip("ab", values(checked(model, "order.energy=0.9", f"order.over={over}")), strict=True):
        truth = sigma(parts("ab".index(name)))
        needed = np.sort((np.cumsum(truth, 1) < 0.9 * truth.sum(1, keepdims=True)).sum(1) + 1)
        assert found == needed[{"largest": -1, "median": 1, "smallest": 0}[over]]


def test_order_for_an_error(model):
    truth = sigma(parts(0))
    bounds = 2 * np.stack([truth[:, r:].sum(1) for r in range(9)], 1)
    needed = (bounds > 0.1 * truth[:, :1]).sum(1)
    assert values(checked(model, "order.error=0.1"))[0] == needed.max()


def test_order_of_the_whole_model_is_the_sum_over_systems(model):
    truth = np.concatenate([sigma(parts(0)), sigma(parts(1))])
    needed = (np.cumsum(truth, 1) < 0.9 * truth.sum(1, keepdims=True)).sum(1) + 1
    (finding,) = checked(model, "order.energy=0.9", "order.scope=model").findings
    assert (finding.layer, finding.value, finding.whole) == ("", needed.sum(), 2 * 3 * 8)


@pytest.mark.parametrize(("beyond", "first"), [("3", 3), ("50%", 4), ("0", 0), ("100", 8)])
def test_sigma_tail(model, beyond, first):
    truth = sigma(parts(0))
    share = (truth[:, first:].sum(1) / truth.sum(1)).max()
    assert values(checked(model, f"sigma_tail.beyond={beyond}"))[0] == pytest.approx(share, rel=RELATIVE, abs=ABSOLUTE)


def test_effective_size(model):
    energy = sigma(parts(0)) ** 2
    p = energy / energy.sum(1, keepdims=True)
    truth = np.exp(-(p * np.log(p)).sum(1))
    assert values(checked(model, "effective_size.severity=warn"))[0] == pytest.approx(np.median(truth), rel=1e-6)
    assert values(checked(model, "effective_size.over=smallest"))[0] == pytest.approx(truth.min(), rel=1e-6)


def test_effective_size_of_tiny_values_does_not_underflow():
    module = plugins.load("ssmtool.checks.rules", "effective_size")
    one, other = (module._of(scale * np.array([[3.0, 2.0, 1.0]]), {"over": "largest"}) for scale in (1.0, 1e-200))
    assert one.value == pytest.approx(other.value, rel=1e-12)


def test_redundant_unstable_and_margin(tmp_path):
    poles, B, C = parts(2)
    C[0, 0, 1] = 0  # a pair nobody sees, in one system
    poles[2, 3] = 0.01 + 0.3j  # a pair outside the unit circle, in another
    path = write(tmp_path / "model.safetensors", {"a": (poles, B, C), "b": parts(1)})
    assert values(checked(path, "redundant.max=0")) == [2, 0]
    found = checked(path, "unstable.max=0")
    assert values(found) == [2, 0]
    assert [finding.status for finding in found.findings] == ["error", "passed"]
    assert found.findings[0].whole == 24
    margins = values(checked(path, "margin.severity=error"))
    assert margins == pytest.approx([1 - np.exp(0.01), 1 - np.exp(parts(1)[0].real.max())], rel=1e-12)


def test_a_marginal_mode_without_output_has_no_margin(tmp_path):
    poles, B, C = parts(2)
    poles[0, 1], C[0, 0, 1] = -1e-9, 0
    path = write(tmp_path / "model.safetensors", {"a": (poles, B, C)})
    (margin,) = values(checked(path, "margin.severity=error"))
    assert margin is not None
    assert margin > 1e-3


@pytest.mark.parametrize("left", [0.5, 0.01, 1e-4])
def test_horizon(model, left):
    energy = impulse(parts(0)) ** 2
    tails = np.cumsum(energy[:, ::-1], 1)[:, ::-1]
    steps = (tails > left * tails[:, :1]).sum(1)
    assert values(checked(model, f"horizon.left={left}"))[0] == steps.max()


def test_the_horizon_of_an_unstable_layer_is_infinite(tmp_path):
    poles, B, C = parts(2)
    poles[0, 0] = 0.1j
    path = write(tmp_path / "model.safetensors", {"a": (poles, B, C)})
    found = checked(path, "horizon.max=1000")
    assert values(found) == [np.inf]
    assert found.findings[0].message == "∞, more than 1000"


@pytest.mark.parametrize("target", ["rank=4", "energy=0.9", "budget=0.5", "error=0.3"])
def test_size_and_error_are_those_of_compress(model, target):
    kind, _, value = target.partition("=")
    number = int(value) if kind == "rank" else float(value)
    done = compress(load(model), None, dry_run=True, device="cpu", **{kind: number}).layers  # type: ignore[arg-type]
    sizes = checked(model, f"reduced_size.{target}").findings
    assert [finding.value for finding in sizes] == [row.bytes_after for row in done]
    assert [finding.whole for finding in sizes] == [row.bytes_before for row in done]
    states = checked(model, f"reduced_size.{target}", "reduced_size.of=states").findings
    assert [finding.value for finding in states] == [row.orders.sum() for row in done]
    assert states[0].unit == "states"
    errors = values(checked(model, f"reduced_error.{target}"))
    assert errors == pytest.approx([row.hinf_relative for row in done], rel=1e-9)
    errors = values(checked(model, f"reduced_error.{target}", "reduced_error.norm=h2"))
    assert errors == pytest.approx([row.h2_relative for row in done], rel=1e-9)


def test_a_target_that_makes_nothing_smaller(model):
    """compress refuses it; the layers count as they are."""
    (size, _) = checked(model, "reduced_size.rank=8", 'reduced_size.max="99%"').findings
    assert (size.value, size.status) == (size.whole, "error")
    assert values(checked(model, "reduced_error.rank=8")) == [0.0, 0.0]


def test_a_target_out_of_reach_is_no_small_model_and_no_small_error(tmp_path):
    """1e-30 cannot be met by what is stored in float64."""
    path = write(tmp_path / "model.safetensors", {"a": parts(0)})
    (size,) = checked(path, "reduced_size.error=1e-30", 'reduced_size.max="99%"').findings
    (error,) = checked(path, "reduced_error.error=1e-30", "reduced_error.max=1").findings
    assert (size.status, error.status) == ("error", "skipped")
    assert "best reachable" in error.reason
    assert size.value == size.whole


def test_a_rank_beyond_a_layer_leaves_it_out(tmp_path):
    path = write(tmp_path / "model.safetensors", {"a": parts(0), "small": parts(1, slots=2)})
    one, other = checked(path, "reduced_size.rank=6").findings
    assert one.value is not None
    assert one.value < (one.whole or 0)
    assert (other.status, other.reason) == ("skipped", "has 4 states, fewer than rank 6")


def test_selective_layers_on_tokens(mamba, tokens):
    """The numbers of hsv and diagnose on the same tokens."""
    from ssmtool.pipeline.diagnose import diagnose
    from ssmtool.pipeline.runner import open_runner
    from ssmtool.pipeline.selective_hsv import calibrated_hsv
    from ssmtool.pipeline.tokens import read_tokens

    opened = load(mamba)
    runner = open_runner(opened, "cpu")
    read = read_tokens(tokens, opened, runner)
    spectra = [row.spectra[0] for row in calibrated_hsv(opened, runner, read).layers]

    def measured(*changes):
        return values(checked(mamba, *changes, source=tokens, device="cpu"))

    assert measured("order.energy=0.9") == [part.share(0.9) for part in spectra]
    assert measured("order.error=0.1") == [part.size(0.1) for part in spectra]
    sizes = measured("effective_size.severity=warn")
    assert sizes == pytest.approx([part.entropy_size for part in spectra], rel=1e-9)  # one group
    tails = [part.values[0, 4:].sum() / part.values[0].sum() for part in spectra]
    assert measured("sigma_tail.beyond=4") == pytest.approx(tails, rel=1e-12)
    sections = diagnose(opened, ["timescales", "memory", "token_dynamics"], runner=runner, tokens=read).sections
    assert measured("margin.severity=warn") == pytest.approx([row.margin for row in sections["timescales"].layers])  # type: ignore[attr-defined]
    assert measured("reach.severity=warn") == [row.reach for row in sections["memory"].layers]  # type: ignore[attr-defined]
    dynamics = sections["token_dynamics"].layers  # type: ignore[attr-defined]
    assert measured("convergent.severity=warn") == [row.regime == "convergent" for row in dynamics]
    assert measured("convergent.by=tokens") == [row.moment.positive == 0 for row in dynamics]


def test_selective_layers_are_reduced_on_tokens(mamba, tokens):
    """As compress --refit 0 does it, all together."""
    from ssmtool.pipeline.runner import open_runner
    from ssmtool.pipeline.selective_compress import compress_selective
    from ssmtool.pipeline.tokens import read_tokens
    from ssmtool.selective.refit import RefitOptions

    opened = load(mamba)
    runner = open_runner(opened, "cpu")
    read = read_tokens(tokens, opened, runner)
    options = RefitOptions(steps=0)
    done = compress_selective(opened, runner, read, None, rank=4, dry_run=True, options=options).layers

    def found(*changes):
        return checked(mamba, *changes, source=tokens, device="cpu").findings

    assert [(f.value, f.whole) for f in found("reduced_size.rank=4")] == [(r.bytes_after, r.bytes_before) for r in done]
    states = found("reduced_size.rank=4", "reduced_size.of=states")
    assert [f.value for f in states] == [4 * row.layer.systems for row in done]
    errors = [f.value for f in found("reduced_error.rank=4")]
    assert errors == pytest.approx([row.scan_error for row in done], rel=1e-6)  # float32 passes
    assert [f.value for f in found("reduced_error.rank=16")] == [0, 0]  # as many as there are
    assert {f.value == f.whole for f in found("reduced_size.energy=0.9999999")} == {True}  # out of reach
    assert {f.status for f in found("reduced_error.energy=0.9999999", "reduced_error.max=1")} == {"skipped"}
    assert {f.reason for f in found("reduced_error.rank=17")} == {"has 16 states, fewer than rank 17"}


@pytest.mark.parametrize(
    "rule",
    ["order", "margin", "reach", "effective_size", "sigma_tail.beyond=4", "convergent.by=tokens"],
)
def test_selective_layers_without_tokens_are_skipped_with_the_reason(mamba, rule):
    found = checked(mamba, rule if "=" in rule else f"{rule}.severity=error")
    assert {finding.status for finding in found.findings} == {"skipped"}
    assert all("--tokens FILE" in finding.message for finding in found.findings)


def test_too_few_tokens_are_a_reason_too(mamba, tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((1, 8), dtype=np.int64))
    found = checked(mamba, "order.energy=0.9", source=TokenSource(tmp_path / "few.npy"), device="cpu")
    assert {finding.status for finding in found.findings} == {"skipped"}
    assert "singular" in found.findings[0].message
