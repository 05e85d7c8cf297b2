"""Policies: which file, which values, from where, and what is wrong with them."""

from __future__ import annotations

import pytest

from ssmtool.checks.policy_file import find_policy, read_policy
from ssmtool.errors import UsageError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a policy file, in the current directory by default."""
    monkeypatch.chdir(tmp_path)

    def save(text, name="ssmtool.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return save


def rules(policy):
    """Rule -> severity and limits of its first entry."""
    return {e.rule: (e.severity, {limit.kind: limit.text for limit in e.limits}) for e in reversed(policy.entries)}


def test_without_a_file_the_built_in_rules_are_in_force():
    policy = read_policy(None)
    assert rules(policy) == {
        "unstable": ("error", {"max": "0"}),
        "redundant": ("warn", {"max": "0"}),
        "order": ("warn", {"max_increase": "10 %"}),
    }
    assert {entry.origin.text for entry in policy.entries} == {"built-in"}


def test_the_nearest_file_upward(write, tmp_path):
    deep = tmp_path / "a" / "b"
    write("", "a/b/x.txt")
    assert find_policy(deep) is None
    write("[project]\nname = 'x'\n", "a/pyproject.toml")
    assert find_policy(deep) is None  # it does not speak of ssmtool
    far = write("[check]\n")
    assert find_policy(deep) == far
    near = write("[tool.ssmtool.check]\n", "a/pyproject.toml")
    assert find_policy(deep) == near
    own = write("[check]\n", "a/ssmtool.toml")
    assert find_policy(deep) == own  # beside each other, the own file


@pytest.mark.parametrize(("name", "above"), [("ssmtool.toml", ""), ("pyproject.toml", "tool.ssmtool."), ("x.toml", "")])
def test_both_kinds_of_file_say_the_same(write, name, above):
    path = write(f"[{above}check]\nskipped = 'error'\n[{above}check.rules.order]\nmax = '50%'\n", name)
    policy = read_policy(path)
    assert policy.value("skipped") == "error"
    assert policy.settings["skipped"].origin.text == f"{name}:2"
    assert rules(policy)["order"] == ("error", {"max": "50 %"})  # in place of the built-in entry
    entry = policy.entries[-1]
    assert entry.origin.text == f"{name}:3"
    assert entry.origins["max"].text == f"{name}:4"
    assert entry.origins["energy"].text == "default"
    assert set(rules(policy)) == {"unstable", "redundant", "order"}


def test_defaults_false_leaves_only_what_the_file_says(write):
    assert rules(read_policy(write("[check]\ndefaults = false\n[check.rules]\nmargin = 'warn'\n"))) == {
        "margin": ("warn", {})
    }


def test_a_rule_can_be_switched_off(write):
    policy = read_policy(write("[check.rules]\nredundant = 'off'\n"))
    assert ("redundant", ("a",)) not in [(entry.rule, names) for entry, names in policy.applied(["a"])]
    assert {entry.rule for entry, _ in policy.applied(["a"])} == {"unstable", "order"}


def test_the_last_entry_that_matches_counts(write):
    policy = read_policy(
        write(
            """
            [[check.rules.order]]
            max = 1
            [[check.rules.order]]
            max = 2
            layers = "b*"
            [[check.rules.order]]
            error = 0.1   # another number: beside the others
            max = 3
            [[check.rules.order]]
            max = 4
            layers = ["b2", "c"]
            [[check.rules.order]]
            severity = "off"
            layers = "d"
            """
        )
    )
    found = {
        (entry.limits[0].amount, name)
        for entry, names in policy.applied(["a", "b1", "b2", "c", "d"])
        for name in names
        if entry.rule == "order"
    }
    assert found == {(1, "a"), (2, "b1"), (4, "b2"), (4, "c"), (3, "a"), (3, "b1"), (3, "b2"), (3, "c")}


def test_changes_come_after_the_file(write):
    path = write("[check.rules.order]\nenergy = 0.9\nmax = 3\nseverity = 'warn'\n")
    policy = read_policy(path, ["order.max=5", "margin.min=1e-3", 'order.min="10%"', "order.over=median"])
    assert rules(policy)["order"] == ("warn", {"min": "10 %", "max": "5"})
    assert rules(policy)["margin"] == ("error", {"min": "0.001"})
    order = next(entry for entry in policy.entries if entry.rule == "order")
    assert order.origins["max"].text == "command line"
    assert order.origins["energy"].text == "ssmtool.toml:2"
    assert dict(order.keys) == {"energy": 0.9, "error": None, "over": "median"}


def test_changes_without_a_file_start_from_the_rule_not_from_the_built_in_entry():
    assert rules(read_policy(None, ["order.max=5"]))["order"] == ("error", {"max": "5"})


def test_paths_are_relative_to_the_file(write, tmp_path):
    path = write("[check]\nbaseline = 'old.json'\ntokens = '/abs/t.npy'\n", "conf/ssmtool.toml")
    policy = read_policy(path)
    assert policy.value("baseline") == str(tmp_path / "conf" / "old.json")
    assert policy.value("tokens") == "/abs/t.npy"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[check]\nskiped = 'note'\n", ["ssmtool.toml:2", "'skiped'", "Did you mean 'skipped'"]),
        ("[check.rules.ordr]\nmax = 1\n", ["ssmtool.toml:1", "no rule 'ordr'", "Did you mean 'order'"]),
        ("[check.rules.order]\n\nmaximum = 1\n", ["ssmtool.toml:3", "'rules.order.maximum'", "max"]),
        ("[check.rules.order]\nenergy = 1.5\n", ["ssmtool.toml:2", "rules.order.energy", "less than 1"]),
        ("[check.rules.order]\nenergy = 0.9\nerror = 0.1\n", ["ssmtool.toml:1", "not both"]),
        ("[check.rules.order]\nenergy = '0.9'\n", ["ssmtool.toml:2", "number"]),
        ("[check.rules.order]\nmax = 'ten'\n", ["ssmtool.toml:2", "'ten'", "percentage"]),
        ("[check.rules.order]\nmax = true\n", ["ssmtool.toml:2", "rules.order.max"]),
        ("[check.rules.horizon]\nmax = '50%'\n", ["ssmtool.toml:2", "percentage of"]),
        ("[check.rules.margin]\nscope = 'model'\n", ["ssmtool.toml:2", "add up"]),
        ("[check.rules.sigma_tail]\nmax = 1\n", ["ssmtool.toml:1", "'rules.sigma_tail.beyond' is missing", "min, max"]),
        (
            "[check.rules.sigma_tail]\nrank = 3\nmax = 1\n",
            ["ssmtool.toml:2", "no key 'rules.sigma_tail.rank'", "beyond"],
        ),
        ("[check.rules.sigma_tail]\nbeyond = -1\n", ["ssmtool.toml:2", "beyond"]),
        ("[check.rules.reduced_size]\nmax = 1\n", ["ssmtool.toml:1", "0 targets", "rank"]),
        ("[check.rules.reduced_size]\nrank = 1\nmethod = 'magic'\n", ["ssmtool.toml:3", "'magic'", "balanced"]),
        ("[check.rules]\norder = 'fatal'\n", ["ssmtool.toml:2", "severity", "'off'"]),
        ("[check.rules]\norder = 3\n", ["ssmtool.toml:2", "neither"]),
        ("[check.rules]\norder = []\n", ["ssmtool.toml:2", "neither"]),
        ("[[check.rules.order]]\nmax = 1\n[[check.rules.order]]\nmx = 1\n", ["ssmtool.toml:4", "'max'"]),
        ("check = 1\n", ["ssmtool.toml:1", "no table"]),
        ("[chekc]\n", ["ssmtool.toml:1", "'chekc'", "'check'"]),
        ("[check\n", ["ssmtool.toml", "not valid TOML", "line 1"]),
        ("[check]\nrules = 3\n", ["ssmtool.toml:2", "rules"]),
        ("[check]\nself = 0\n", ["ssmtool.toml:2", "self"]),
        ("[check]\nlayers = [1]\n", ["ssmtool.toml:2", "layers"]),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_the_nearest_key(write, text, words):
    with pytest.raises(UsageError) as error:
        read_policy(write(text))
    line = error.value.line()
    assert "\n" not in line
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("order", ["RULE.KEY=VALUE"]),
        ("order.max", ["RULE.KEY=VALUE"]),
        ("odrer.max=1", ["'odrer'", "'order'"]),
        ("order.mxa=1", ["--set", "'max'"]),
        ("order.max=[1]", ["--set", "order.max"]),
    ],
)
def test_wrong_changes(change, words):
    with pytest.raises(UsageError) as error:
        read_policy(None, [change])
    assert all(word in error.value.line() for word in words), error.value.line()


def test_a_change_to_one_of_several_entries_is_refused(write):
    path = write("[[check.rules.order]]\nmax = 1\n[[check.rules.order]]\nmax = 2\nlayers = 'a'\n")
    with pytest.raises(UsageError, match="2 entries"):
        read_policy(path, ["order.max=3"])


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read_policy(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"[check]\n# \xff\n")
    with pytest.raises(UsageError, match="UTF-8"):
        read_policy(tmp_path / "bytes.toml")
    with pytest.raises(UsageError, match=r"no \[tool.ssmtool.check\]"):
        read_policy(write("[project]\nname = 'x'\n", "pyproject.toml"))
    with pytest.raises(UsageError, match="cannot be read"):
        read_policy(write("x = " + "[" * 100_000, "deep.toml"))
