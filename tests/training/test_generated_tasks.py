"""ListOps against an evaluator of its own, Pathfinder against its geometry; both the same every time."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssmtool.errors import UsageError
from ssmtool.training.tasks import listops, pathfinder
from ssmtool.training.tasks._contract import PADDING, Task, open_task
from ssmtool.training.tasks._pathfinder_paths import TRIES, Paths, squared_distance

LISTS = "listops:min_length=4,max_length=60,max_depth=4,max_args=5,train=400,validation=60,test=80"
IMAGES = "pathfinder:train=60,validation=10,test=20"
FUNCTIONS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def words(row: torch.Tensor) -> list[str]:
    return [listops.TOKENS[token] for token in row.tolist() if token != PADDING]


def reduce_lists(text: list[str]) -> tuple[int, int, int]:
    """Value, depth and largest number of arguments, by a stack: innermost lists are replaced by their values."""
    stack: list[tuple[str, list[int]]] = [("", [])]
    depth = most = 0
    for word in text:
        if word == "]":
            name, values = stack.pop()
            most = max(most, len(values))
            assert len(values) >= 2
            stack[-1][1].append(FUNCTIONS[name](values))
        elif word.startswith("["):
            stack.append((word, []))
            depth = max(depth, len(stack) - 1)
        else:
            stack[-1][1].append(int(word))
    assert len(stack) == 1
    (value,) = stack[0][1]
    return value, depth, most


@pytest.fixture(scope="module")
def lists() -> Task:
    return open_task(LISTS)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_lists_have_the_value_of_their_label(lists: Task, part: str) -> None:
    inputs, labels = lists.load(part)
    assert inputs.dtype == torch.int16
    assert len(inputs) == len(labels) == lists.options[part]
    for row, label in zip(inputs, labels.tolist(), strict=True):
        text = words(row)
        value, depth, most = reduce_lists(text)
        assert value == label
        assert 4 < len(text) < 60
        # A digit counts as a level, as in the published generator: lists at depth 3 hold digits at depth 4.
        assert depth <= 3
        assert most <= 5
        assert (row[len(text) :] == PADDING).all()


def test_parts_of_lists_are_different_and_do_not_depend_on_the_training_part(lists: Task) -> None:
    found = {part: {tuple(words(row)) for row in lists.load(part)[0]} for part in ("train", "validation", "test")}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 540
    larger = open_task(LISTS.replace("train=400", "train=500"))
    assert torch.equal(larger.load("test")[0], lists.load("test")[0])
    mine, theirs = ([words(row) for row in task.load("train")[0][:400]] for task in (lists, larger))
    assert mine == theirs
    other = open_task(f"{LISTS},seed=1")
    assert not torch.equal(other.load("test")[1], lists.load("test")[1])


def test_lists_are_what_the_specification_makes_likely() -> None:
    """An argument is a list with probability 1/4, of each operator alike, with 2 to 10 arguments alike."""
    uniform = random.Random(0).random
    lists = arguments = 0
    names, counts = dict.fromkeys(FUNCTIONS, 0), dict.fromkeys(range(2, 11), 0)
    for _ in range(8000):
        tokens = bytearray()
        listops._grow(tokens, uniform, 1, 3, 10, 10**6)
        text = [listops.TOKENS[token] for token in tokens]
        if len(text) == 1:
            continue
        level, top = 0, []
        for word in text[1:-1]:
            if level == 0:
                top.append(word)
            level += word.startswith("[") - (word == "]")
        names[text[0]] += 1
        counts[len(top)] += 1
        arguments += len(top)
        lists += sum(word.startswith("[") for word in top)
    total = sum(names.values())
    # Four standard deviations of binomial shares.
    assert abs(total / 8000 - 0.25) < 4 * (0.1875 / 8000) ** 0.5
    assert abs(lists / arguments - 0.25) < 4 * (0.1875 / arguments) ** 0.5
    assert all(abs(count / total - 1 / 4) < 4 * (0.1875 / total) ** 0.5 for count in names.values())
    assert all(abs(count / total - 1 / 9) < 4 * (8 / 81 / total) ** 0.5 for count in counts.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("listops:max_length=3,min_length=2", "do not exist"),
        ("listops:max_depth=1", "option max_depth of task listops is 1"),
        ("listops:depth=3", "task listops has no option 'depth'. It has min_length, max_length"),
        ("listops:train=many", "option train of task listops is 'many', not a whole number"),
        ("pathfinder:dashes=40", "more than 16 dashes"),
        ("pathfinder:test=0", "option test of task pathfinder is 0"),
    ],
)
def test_impossible_options_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_task(spec)


def test_too_many_lists_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listops, "PATIENCE", 2000)
    with pytest.raises(UsageError, match="no new ones are found"):
        open_task("listops:min_length=0,max_length=5,max_depth=2,max_args=2,test=5000").load("test")


@pytest.fixture(scope="module")
def grown() -> tuple[Paths, np.ndarray]:
    """Paths of a few images, and which are complete."""
    paths = Paths(64, 48, pathfinder.GEOMETRY, np.random.RandomState(3))
    complete = pathfinder._two_paths(paths, 14)
    for number in range(5):
        pathfinder._distract(paths, complete, 28 + 4 * number, 4)
    return paths, complete


def test_dashes_keep_clear_of_each_other(grown: tuple[Paths, np.ndarray]) -> None:
    """By brute force: 21 points on every dash. Neighbours in a path are a gap of two margins apart, about."""
    paths, complete = grown
    assert len(complete) > 20
    share = np.linspace(0, 1, 21)[:, None]
    for image in complete[:15]:
        used = paths.present[image].nonzero()[0]
        ends = paths.ends[image, used]
        assert np.allclose(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=-1), 2.0)
        assert ends.min() >= 1
        assert ends.max() <= 30
        points = ends[:, None, 0] + share * (ends[:, None, 1] - ends[:, None, 0])
        away = np.linalg.norm(points[:, None, :, None] - points[None, :, None, :], axis=-1).min(axis=(2, 3))
        path = np.where(used < 28, used // 14, 2 + (used - 28) // 4)
        neighbours = (path[:, None] == path) & (np.abs(used[:, None] - used) == 1)
        others = ~neighbours & ~np.eye(len(used), dtype=bool)
        assert away[others].min() >= 2 - 1e-9
        assert (away[neighbours] <= 2 + 1e-9).all()  # straight on: exactly two; turning closes the gap on one side
        assert {0, 1} <= set(path.tolist())
        assert (np.bincount(path, minlength=2)[:2] == 14).all()


def test_turns_have_the_density_of_the_specification() -> None:
    """cos², of variance π²/12 - 1/2, where nothing is in the way."""
    paths = Paths(4000, 2, pathfinder.Geometry(side=1000), np.random.RandomState(0))
    every = np.arange(paths.count)
    assert paths.begin(every, 0, np.full((paths.count, TRIES, 2), 500.0)).all()
    assert paths.extend(every, np.ones(paths.count, dtype=int)).all()
    turns = paths.angles[:, 1] - paths.angles[:, 0]
    assert abs(turns.mean()) < 0.05
    assert abs(turns.var() - (np.pi**2 / 12 - 0.5)) < 0.03
    assert np.abs(turns).max() < np.pi / 2


def test_the_dots_say_what_the_label_says(grown: tuple[Paths, np.ndarray]) -> None:
    """Both images of a pair have the first dot at a path's beginning; the other is at its end for class 1 only."""
    paths, complete = grown
    tips = np.stack([paths.ends[:, [0, 14], 0], paths.ends[:, [13, 27], 1]], axis=2)
    drawn = pathfinder._draw(paths.ends[complete], paths.present[complete], tips[complete], np.random.RandomState(0))
    for pair, ends in zip(drawn, tips[complete], strict=True):
        white = [
            {(p, e) for p in (0, 1) for e in (0, 1) if image[tuple(np.rint(ends[p, e]).astype(int))] == 255}
            for image in pair
        ]
        begin = next(path for path in (0, 1) if {(path, 0)} <= white[0] & white[1])
        assert {(begin, 0), (1 - begin, 1)} <= white[0]
        assert {(begin, 0), (begin, 1)} <= white[1]


def test_images_are_balanced_different_and_the_same_every_time() -> None:
    task = open_task(IMAGES)
    every = []
    for part in ("train", "validation", "test"):
        inputs, labels = task.load(part)
        assert inputs.shape == (task.options[part], 1024, 1)
        assert inputs.dtype == torch.float32
        assert inputs.min() == -1
        assert inputs.max() == 1
        assert labels.sum().item() * 2 == len(labels)
        every.append(inputs.flatten(1))
    assert len(torch.cat(every).unique(dim=0)) == 90
    pathfinder._images.cache_clear()
    assert torch.equal(task.load("test")[0].flatten(1), every[2])
    larger = open_task(IMAGES.replace("train=60", "train=61"))
    assert torch.equal(larger.load("train")[0][:60].flatten(1), every[0])


def test_distance_to_a_segment() -> None:
    ends = np.array([[0.0, 0.0], [0.0, 2.0]])
    points = np.array([[1.0, 1.0], [0.0, 5.0], [3.0, -4.0]])
    np.testing.assert_allclose(squared_distance(points, ends[None]), [1, 9, 25])
