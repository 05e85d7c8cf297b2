"""Allocation of states: totals, what matters gets them, nothing worse than uniform, and what is refused."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from ssmtool.cache import Cache
from ssmtool.errors import CalibrationError, ReductionError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.lti.impulse import impulse_response
from ssmtool.pipeline.allocate import shared_out
from ssmtool.pipeline.allocation import AllocateOptions, Allocation, Candidate
from ssmtool.pipeline.channel_sensitivity import channel_curves
from ssmtool.pipeline.compress import compress
from ssmtool.pipeline.compression import Compression
from ssmtool.pipeline.cuts import Cuts
from ssmtool.pipeline.methods import How
from ssmtool.pipeline.model import load
from ssmtool.pipeline.spending import between, lower_hull, ranks_to_measure, spend
from ssmtool.pipeline.trials import Trials
from ssmtool.pipeline.workbench import Workbench
from ssmtool.reductions._contract import Target
from ssmtool.reference.layouts._contract import Sizes
from ssmtool.reference.model import build, create
from tests.pipeline.checkpoints import CASES, tiny, write_folder, written

WIDTH, SLOTS, CLASSES = 4, 6, 3
GLU = "output_linear.0.weight"


def inputs(count: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 20, 1)).astype(np.float32)


def saved(path: Path, layout: str = "s4d", seed: int = 0, layers: int = 2, change=None) -> Path:
    """A reference model whose classes depend on its layers strongly enough to be measured."""
    state = create(layout, Sizes(1, WIDTH, CLASSES, (SLOTS,) * layers), seed=seed).state_dict()
    state |= {name: 4 * x for name, x in state.items() if "decoder" in name and x.ndim == 2}
    if change is not None:
        change(state)
    save_file({name: x.clone().contiguous() for name, x in state.items()}, path)
    return path


def shared(path: Path, kind: str, *, per_channel=False, **more) -> Compression:
    options = AllocateOptions(kind, per_channel, None, "classes")
    more = {"inputs": inputs(), "per_layer": True, "dry_run": True, **more}
    return compress(load(path), None, allocate=options, device="cpu", **more)


def allocation_of(done: Compression) -> Allocation:
    assert done.allocation is not None
    return done.allocation


def loss_of(candidate: Candidate) -> float:
    assert candidate.loss is not None
    return candidate.loss


def states(done: Compression) -> int:
    return sum(int(ranks.sum()) for ranks in allocation_of(done).kept.ranks)


def test_spending_is_optimal_for_convex_curves():
    rng = np.random.default_rng(1)
    for _ in range(20):
        costs = [np.r_[np.cumsum(np.sort(rng.uniform(0, 1, n)))[::-1], 0.0] for n in (4, 5, 3)]
        total = int(rng.integers(3, 12))
        found = spend(costs, [1, 1, 1], [1, 1, 1], total)
        best = min(
            sum(c[r] for c, r in zip(costs, ranks, strict=True))
            for ranks in itertools.product(*(range(1, len(c)) for c in costs))
            if sum(ranks) <= total
        )
        # The same sums of the same numbers in another order.
        assert sum(c[r] for c, r in zip(costs, found, strict=True)) == pytest.approx(best, rel=1e-12)
        assert found.sum() == min(total, 12)


@pytest.mark.parametrize(("total", "step"), [(7, 1), (17, 2), (18, 2), (30, 2), (31, 1)])
def test_spending_uses_the_total_exactly(total, step):
    costs = [np.linspace(s, 0, 17) ** 3 for s in (3.0, 1.0, 0.1)]
    ranks = spend(costs, [1, 1, 1], [1, 1, 1], total, step)
    assert ranks.sum() == total
    assert (ranks >= 1).all()
    assert sum(r % 2 for r in ranks if r > 1) <= (1 if step == 2 else 3)


def test_units_too_wide_for_the_rest_do_not_block_narrower_ones():
    ranks = spend([np.array([9.0, 5, 1, 0]), np.array([1.0, 0.5, 0.2, 0])], [4, 1], [1, 1], 7)
    assert ranks.tolist() == [1, 3]


def test_fewer_states_than_must_stay_are_refused():
    with pytest.raises(ReductionError, match="fewer than the 3"):
        spend([np.array([1.0, 0])] * 3, [1, 1, 1], [1, 1, 1], 2)


def test_the_hull_is_the_largest_convex_curve_below():
    cost = np.random.default_rng(2).uniform(0, 1, 12)
    hull = lower_hull(cost)
    assert (np.diff(hull, 2) >= -1e-12).all()
    assert (hull <= np.minimum.accumulate(cost) + 1e-12).all()
    # Every corner is a point of the curve: no convex curve below could be higher there.
    corners = np.r_[0, 1 + np.flatnonzero(np.diff(hull, 2) > 1e-9), len(cost) - 1]
    assert np.allclose(hull[corners], np.minimum.accumulate(cost)[corners])


def test_curves_go_through_what_was_measured():
    grid = ranks_to_measure(64)
    assert grid[0] == 1
    assert grid[-1] < 64
    curve = between(grid, np.exp(-0.5 * np.array(grid)), 64)
    # An exponential is a straight line in logarithms, so that interpolation is exact; above the last rank it is flat.
    assert np.allclose(curve[1 : grid[-1]], np.exp(-0.5 * np.arange(1, grid[-1])), rtol=1e-9, atol=1e-12 * curve[0])
    assert curve[64] == 0
    assert not between([1, 2], np.zeros((3, 2)), 4).any()


@pytest.mark.parametrize("kind", ["bound", "sensitivity", "best"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("rank", [3, 4])
def test_every_candidate_spends_the_same_total(tmp_path, kind, per_channel, rank):
    done = shared(saved(tmp_path / "m.safetensors"), kind, per_channel=per_channel, rank=rank)
    assert allocation_of(done).total == rank * WIDTH * 2
    assert all(c.states == allocation_of(done).total for c in allocation_of(done).candidates)
    assert all((ranks >= 1).all() for c in allocation_of(done).candidates for ranks in c.ranks)
    assert [row.orders.tolist() for row in done.layers] == [r.tolist() for r in allocation_of(done).kept.ranks]


def test_a_budget_is_a_share_of_all_states(tmp_path):
    done = shared(saved(tmp_path / "m.safetensors"), "bound", inputs=None, budget=0.5)
    assert states(done) == WIDTH * 2 * SLOTS
    assert allocation_of(done).kept.loss is None


def test_the_bound_allocation_has_the_least_sum_of_bounds(tmp_path):
    path = saved(tmp_path / "m.safetensors", seed=3)
    done = shared(path, "bound", inputs=None, rank=4)
    tails = []
    for entry in load(path).hsv(device="cpu"):
        sigma = entry.spectrum.sigma
        tail = np.array([sigma[:, r:].sum() for r in range(sigma.shape[1] + 1)])
        tails.append(tail / sigma[:, 0].sum())
    best = min(tails[0][r] + tails[1][8 - r] for r in (2, 4, 6))  # whole slots
    found = [int(ranks[0]) for ranks in allocation_of(done).kept.ranks]
    assert tails[0][found[0]] + tails[1][found[1]] == pytest.approx(best, rel=1e-9)


def test_a_layer_that_does_not_matter_gives_its_states_away(tmp_path):
    def cut_off(state):
        state[f"s4_layers.0.{GLU}"].zero_()

    done = shared(saved(tmp_path / "m.safetensors", change=cut_off), "sensitivity", rank=4)
    first, second = (int(ranks[0]) for ranks in allocation_of(done).kept.ranks)
    assert first <= 2
    assert second >= 6


def test_a_channel_that_does_not_matter_gives_its_states_away(tmp_path):
    def cut_off(state):
        for layer in range(2):
            state[f"s4_layers.{layer}.{GLU}"][:, 1] = 0

    done = shared(saved(tmp_path / "m.safetensors", change=cut_off), "sensitivity", per_channel=True, rank=3)
    for ranks in allocation_of(done).kept.ranks:
        assert ranks[1] == 1
    kept = allocation_of(done).kept
    assert kept.states == 3 * 2 * WIDTH
    assert loss_of(kept) < loss_of(allocation_of(done).candidates[0])


def test_channel_curves_are_the_first_order_change_of_the_outputs(tmp_path):
    path = saved(tmp_path / "m.safetensors", seed=5, layers=1)
    model, data = load(path), inputs(64)
    bench = Workbench(model, None, data)
    how = How()
    cuts = Cuts(model, model.layers, how, bench, per_layer=True, pad_to=None, device="cpu")
    trials = Trials(bench, cuts, AllocateOptions("sensitivity", True, None, "values"))
    (curve,) = channel_curves(trials, bench.data, [2 * SLOTS], lambda *_: None)
    assert curve is not None
    layer, rank, h = model.layers[0], 2, 1e-2
    reduced = cuts.reduced(layer, np.full(WIDTH, rank))[0]
    change = impulse_response(reduced, data.shape[1]) - impulse_response(cuts.systems[layer.name], data.shape[1])
    module = build({name: x.double() for name, x in load_file(path).items()})
    wide = torch.from_numpy(data).double()
    with torch.no_grad():
        for s in range(WIDTH):
            slope = (_with_kernel(module, s, h * change[s, 0, 0])(wide) - module(wide)) / h
            truth = slope.square().sum(-1).mean().item()
            # 64 random directions in four batches: standard deviation sqrt(2 / 64) = 18 %; three of them.
            assert curve[s, rank] == pytest.approx(truth, rel=0.55)


def _with_kernel(module, channel, change):
    """The model with `change` (L,) added to the convolution kernel of one channel of its first layer."""
    changed = build({name: x.clone() for name, x in module.state_dict().items()})
    part = changed.get_submodule("s4_layers.0.kernel")
    plain = part.forward

    def forward(length):
        kernel = plain(length).clone()
        kernel[channel] += torch.from_numpy(change[:length])
        return kernel

    part.forward = forward
    return changed


@pytest.mark.parametrize("layout", ["s4d", "s5", "lru"])
@pytest.mark.parametrize("labelled", [False, True])
def test_best_is_never_worse_than_uniform_where_it_was_judged(tmp_path, layout, labelled):
    path = saved(tmp_path / "m.safetensors", layout, seed=7)
    data = inputs(32, seed=8)
    labels = np.random.default_rng(9).integers(0, CLASSES, 32) if labelled else None
    original = build(load_file(path))

    def loss(file: Path) -> float:
        with torch.no_grad():
            held = torch.from_numpy(data[1::2])
            out, wanted = build(load_file(file))(held), original(held)
        if labels is not None:
            return F.cross_entropy(out, torch.from_numpy(labels[1::2])).item()
        return F.kl_div(out.log_softmax(-1), wanted.softmax(-1), reduction="batchmean").item()

    options = AllocateOptions("best", False, labels, "classes")
    common = {"rank": 4, "device": "cpu", "per_layer": True}
    best = compress(load(path), tmp_path / "a.safetensors", inputs=data, allocate=options, **common)
    compress(load(path), tmp_path / "b.safetensors", **common)
    found, uniform = loss(tmp_path / "a.safetensors"), loss(tmp_path / "b.safetensors")
    assert found <= uniform * (1 + 1e-4) + 1e-6  # float32 outputs
    kept = allocation_of(best).kept
    assert kept.loss == pytest.approx(found, rel=1e-3, abs=1e-6)
    assert kept.loss == min(loss_of(c) for c in allocation_of(best).candidates if c.allowed)
    assert allocation_of(best).measure == ("cross-entropy" if labelled else "divergence")


def test_without_per_layer_only_what_is_not_larger_may_win(tmp_path):
    path = saved(tmp_path / "m.safetensors")
    done = shared(path, "best", rank=4, per_layer=False)
    uniform = allocation_of(done).candidates[0]
    assert (uniform.kind, uniform.allowed) == ("uniform", True)
    assert allocation_of(done).kept.bytes_after <= uniform.bytes_after
    for candidate in allocation_of(done).candidates:
        assert candidate.allowed == (candidate.bytes_after <= uniform.bytes_after)


@pytest.mark.parametrize("per_layer", [False, True])
def test_the_bytes_of_a_candidate_are_those_of_the_file(tmp_path, per_layer):
    path = saved(tmp_path / "m.safetensors")
    done = shared(path, "bound", rank=4, per_channel=True, per_layer=per_layer, dry_run=False, inputs=None)
    stored = load_file(written(done))
    assert sum(x.numel() * x.element_size() for x in stored.values()) == done.bytes_after
    assert allocation_of(done).kept.bytes_after == done.bytes_after


def test_the_record_tells_what_won(tmp_path):
    done = shared(saved(tmp_path / "m.safetensors"), "best", rank=4, dry_run=False)
    record = json.loads(load(written(done)).checkpoint.metadata["ssmtool"])["allocation"]
    assert record["kept"] == allocation_of(done).kept.name
    assert set(record["scores"]) == {
        "uniform", "bound", "sensitivity", "bound, channels", "sensitivity, channels"
    }  # fmt: skip
    assert list(record["ranks"]) == [row.layer.name for row in done.layers]


@pytest.mark.parametrize(("family", "variant"), CASES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_every_family_can_share_its_states_out_by_the_bound(tmp_path, family, variant, per_channel):
    path = write_folder(tmp_path / "model", *tiny(family, variant))
    model = load(path, family=family)
    rank = max(1, min(layer.order for layer in model.layers) // 2)
    options, uniform = AllocateOptions("bound", per_channel), [Target("rank", rank)] * len(model.layers)
    cuts = Cuts(model, model.layers, How(), None, per_layer=True, pad_to=None, device="cpu")
    if per_channel and not any(own_poles(layer) for layer in model.layers):
        with pytest.raises(UsageError, match="no layer has several systems"):
            shared_out(cuts, uniform, options, None)
        return
    found = shared_out(cuts, uniform, options, None)
    assert found.total == rank * sum(layer.systems for layer in model.layers)
    assert found.total - max(layer.systems for layer in model.layers) < found.kept.states <= found.total
    for layer, ranks in zip(model.layers, found.kept.ranks, strict=True):
        system, width = cuts.reduced(layer, ranks)
        assert system.systems == layer.systems
        assert width <= layer.slots
        assert (ranks >= 1).all()


def own_poles(layer: Layer) -> bool:
    return layer.systems > 1 and not layer.constraints.shared_poles and not layer.constraints.real_poles


def test_unstable_states_stay_and_count(tmp_path):
    tensors, config = tiny("neutral", "batch")
    name = next(name for name in tensors if name.endswith("lambda_log"))
    tensors[name][0, 0, 0] = 0.01  # one pair of the first system outside the unit circle
    path = write_folder(tmp_path / "model", tensors, config)
    done = shared(path, "bound", per_channel=True, inputs=None, rank=3)
    assert states(done) == allocation_of(done).total
    assert allocation_of(done).kept.ranks[0][0] >= 2
    assert [row.orders.tolist() for row in done.layers] == [r.tolist() for r in allocation_of(done).kept.ranks]


def test_uniform_is_what_it_was(tmp_path):
    done = shared(saved(tmp_path / "m.safetensors"), "uniform", rank=4)
    assert done.allocation is None
    assert done.target == "rank 4"


def test_runs_twice_give_the_same(tmp_path):
    path = saved(tmp_path / "m.safetensors")
    one, two = (allocation_of(shared(path, "best", rank=3, per_channel=True)) for _ in range(2))
    assert [c.loss for c in one.candidates] == [c.loss for c in two.candidates]
    assert one.record() == two.record()


LABELS = np.zeros(24, dtype=np.int64)


@pytest.mark.parametrize(
    ("options", "more", "error", "says"),
    [
        ({"kind": "nonsense"}, {}, UsageError, "no allocation 'nonsense'"),
        ({"kind": "sensitivity"}, {"inputs": None}, UsageError, "needs --calibrate"),
        ({"kind": "best"}, {"inputs": None}, UsageError, "needs --calibrate"),
        ({"kind": "bound"}, {"rank": None, "energy": 0.9}, UsageError, "--energy sets none"),
        ({"kind": "uniform", "per_channel": True}, {}, UsageError, "every channel the same"),
        ({"kind": "best"}, {"inputs": inputs(3)}, CalibrationError, "too few"),
        ({"kind": "best", "labels": LABELS[:-1]}, {}, CalibrationError, "for 24 calibration"),
        ({"kind": "best", "labels": LABELS + 0.5}, {}, CalibrationError, "not whole numbers"),
        ({"kind": "best", "labels": LABELS + CLASSES}, {}, CalibrationError, "classes 0 to 2"),
        ({"kind": "best", "labels": LABELS[:, None]}, {}, CalibrationError, "outputs of shape"),
        ({"kind": "bound", "labels": LABELS}, {"inputs": None}, UsageError, "--labels needs"),
    ],
)
def test_what_cannot_be_done_is_refused(tmp_path, options, more, error, says):
    path = saved(tmp_path / "m.safetensors")
    arguments = {"rank": 4, "inputs": inputs(), "dry_run": True, "device": "cpu", **more}
    with pytest.raises(error, match=says):
        compress(load(path), None, allocate=replace(AllocateOptions(), **options), **arguments)


def test_channels_of_layers_that_have_none_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no layer has several systems"):
        shared(saved(tmp_path / "m.safetensors", "s5"), "best", per_channel=True, rank=4)


def test_an_interrupted_allocation_goes_on(tmp_path, monkeypatch):
    path, cache, data = saved(tmp_path / "m.safetensors"), Cache(tmp_path / "kept"), inputs(32)
    measured: list[object] = []
    outputs = Trials.outputs

    def counted(self, *args):
        if len(measured) == limit:
            raise KeyboardInterrupt
        measured.append(args)
        return outputs(self, *args)

    monkeypatch.setattr(Trials, "outputs", counted)
    options = AllocateOptions("best", False, None, "classes")

    def run(name: str, **more) -> bytes:
        common = {"rank": 4, "device": "cpu", "per_layer": True, "inputs": data}
        compress(load(path), tmp_path / name, allocate=options, **common, **more)
        return (tmp_path / name).read_bytes()

    limit = -1
    plain = run("plain.safetensors")
    total = len(measured)
    limit = len(measured) + total // 2
    with pytest.raises(KeyboardInterrupt):
        run("killed.safetensors", cache=cache)
    assert not (tmp_path / "killed.safetensors").exists()
    measured.clear()
    limit = -1
    assert run("again.safetensors", cache=cache) == plain
    assert 0 < len(measured) <= total - total // 2  # fewer: some trials come twice in a run
    measured.clear()
    assert run("and again.safetensors", cache=cache) == plain
    assert not measured
    run("own.safetensors", cache=cache, build=build)
    assert len(measured) == total  # what another code computes is not known
