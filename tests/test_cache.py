"""The result cache: what was kept comes back or nothing does, whatever happens to the folder."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import resource
import signal
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ssmtool.cache
from ssmtool.cache import Cache, digest

ROOT = Path(__file__).parents[1]
KEY, OTHER = digest("test", 1, "one"), digest("test", 1, "two")
ARRAYS = {
    "sigma": np.array([[3.0, np.inf, -0.0], [np.nan, 5e-324, 0.0]]),
    "count": np.array(7),
    "empty": np.zeros((0, 3), dtype=np.complex128),
    "flags": np.array([True, False]),
    "poles": np.array([1 + 2j], dtype=np.complex64),
    "text": np.frombuffer("σ".encode(), np.uint8),
}


def same(found, expected=ARRAYS):
    """Equal in names, dtypes, shapes and bits."""
    return found is not None and [(k, v.dtype, v.shape, v.tobytes()) for k, v in found.items()] == [
        (k, v.dtype, v.shape, v.tobytes()) for k, v in expected.items()
    ]


def entry(cache, key=KEY):
    assert cache.folder is not None
    return cache.folder / key


@pytest.fixture
def cache(tmp_path):
    kept = Cache(tmp_path / "not" / "there yet")
    kept.put(KEY, ARRAYS)
    return kept


def test_what_was_put_comes_back_to_the_bit_and_can_be_changed(cache):
    found = cache.get(KEY)
    assert same(found)
    found["sigma"][0, 0] = 1.0
    assert same(cache.get(KEY))
    assert cache.get(OTHER) is None


def test_strides_and_byte_order_of_what_is_put_do_not_matter(cache):
    cache.put(OTHER, {"x": np.arange(6, dtype=">i4").reshape(2, 3).T})
    assert same(cache.get(OTHER), {"x": np.array([[0, 3], [1, 4], [2, 5]], dtype="<i4")})


def test_without_a_folder_nothing_is_kept():
    nothing = Cache(None)
    nothing.put(KEY, ARRAYS)
    assert nothing.get(KEY) is None


def test_what_is_no_number_is_refused_and_no_pickle_is_ever_written(cache):
    with pytest.raises(TypeError):
        cache.put(OTHER, {"x": np.array([object()])})
    assert os.listdir(cache.folder) == [KEY]


@pytest.mark.parametrize("key", ["", "abc", "../" + KEY, KEY.upper(), KEY + "0"])
def test_only_keys_name_files(cache, key):
    with pytest.raises(ValueError):
        cache.get(key)


def test_an_entry_cut_short_anywhere_is_not_known(cache):
    whole = entry(cache).read_bytes()
    for length in range(len(whole)):
        entry(cache).write_bytes(whole[:length])
        assert cache.get(KEY) is None
    entry(cache).write_bytes(whole + b"\0")
    assert cache.get(KEY) is None


def test_an_entry_with_any_bit_flipped_is_not_known_and_can_be_replaced(cache):
    whole = entry(cache).read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        entry(cache).write_bytes(damaged)
        assert cache.get(KEY) is None
    cache.put(KEY, ARRAYS)
    assert same(cache.get(KEY))


def test_an_entry_under_another_name_is_not_known(cache):
    os.rename(entry(cache), entry(cache, OTHER))
    assert cache.get(OTHER) is None


def test_another_version_of_the_format_is_not_known(cache, monkeypatch):
    monkeypatch.setattr(ssmtool.cache, "MAGIC", b"ssmtool result 2\n")
    assert cache.get(KEY) is None
    cache.put(KEY, ARRAYS)
    assert same(cache.get(KEY))


@given(header=st.binary(max_size=200) | st.text(max_size=100).map(str.encode), tail=st.binary(max_size=64))
def test_a_header_of_nonsense_with_a_right_checksum_is_not_known(tmp_path_factory, header, tail):
    """Somebody who shares the folder may write anything; it is read as numbers or not at all."""
    rest = struct.pack("<Q", len(header)) + header + tail
    assert ssmtool.cache._decoded(ssmtool.cache.MAGIC + hashlib.sha256(rest).digest() + rest, KEY) is None


@pytest.mark.parametrize(
    "arrays",
    ['[["x","|O",[1]]]', '[["x","<f8",[-1]]]', '[["x","<f8",[1e30]]]', '[["x","<f8",[99999999999999999999]]]', "7",
     '[["x","<f8",[2,2]]]', '[["x"]]', '[[[],"<f8",[1]]]', "[" * 5000],
)  # fmt: skip
def test_arrays_a_header_only_claims_are_not_known(arrays):
    header = f'{{"key":"{KEY}","arrays":{arrays}}}'.encode()
    rest = struct.pack("<Q", len(header)) + header + bytes(8)
    assert ssmtool.cache._decoded(ssmtool.cache.MAGIC + hashlib.sha256(rest).digest() + rest, KEY) is None


@pytest.mark.parametrize("kind", ["directory", "pipe", "dangling link", "loop"])
def test_what_lies_in_the_place_of_an_entry_does_no_harm(cache, kind):
    path = entry(cache, OTHER)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else path.with_name("nowhere"))
    assert cache.get(OTHER) is None
    cache.put(OTHER, ARRAYS)
    assert same(cache.get(OTHER)) or kind == "directory"


def test_a_folder_that_cannot_be_made_or_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    closed = [tmp_path / "file", tmp_path / "file" / "below", Path("/proc/ssmtool"), tmp_path / ("x" * 300)]
    if os.getuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o555)
        closed.append(tmp_path / "closed")
    for folder in closed:
        kept = Cache(folder)
        kept.put(KEY, ARRAYS)
        assert kept.get(KEY) is None


def test_a_full_disk_keeps_nothing_and_leaves_nothing(cache, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            if super().write(data[:5]) and self.tell() > 40:
                raise OSError(errno.ENOSPC, "No space left on device")
            return 5

    monkeypatch.setattr("builtins.open", lambda path, mode, buffering=-1: Full(path, mode))
    cache.put(OTHER, ARRAYS)
    monkeypatch.undo()
    assert os.listdir(cache.folder) == [KEY]
    assert same(cache.get(KEY))


def test_a_limit_of_the_system_on_the_size_of_files_is_like_a_full_disk(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    put = f"Cache({str(tmp_path)!r}).put({KEY!r}, {{'x': numpy.ones(9999)}})"
    code = f"import numpy; from ssmtool.cache import Cache; {put}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, preexec_fn=limit, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert os.listdir(tmp_path / "results") == []


def test_an_interruption_while_writing_leaves_nothing(cache, monkeypatch):
    def interrupted(path, pieces):
        path.write_bytes(pieces[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(ssmtool.cache, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.put(OTHER, ARRAYS)
    assert os.listdir(cache.folder) == [KEY]


def test_what_a_killed_process_left_is_ignored_and_removed_when_it_is_old(cache):
    old, new = cache.folder / f"{KEY[:16]}-0.new", cache.folder / f"{OTHER[:16]}-1.new"
    for path in (old, new):
        path.write_bytes(entry(cache).read_bytes()[:50])
    long_ago = time.time() - 2 * 3600
    os.utime(old, (long_ago, long_ago))
    assert same(cache.get(KEY))
    later = Cache(cache.folder.parent)
    later.put(OTHER, ARRAYS)
    assert not old.exists()
    assert new.exists()  # somebody may be writing it


def test_the_folder_may_be_deleted_at_any_time(cache):
    entry(cache).unlink()
    assert cache.get(KEY) is None
    os.rmdir(cache.folder)
    assert cache.get(KEY) is None
    cache.put(KEY, ARRAYS)
    assert same(cache.get(KEY))


def test_files_have_the_users_own_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        Cache(tmp_path).put(KEY, ARRAYS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "results" / KEY).stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "results").stat().st_mode) == 0o750


WRITER = """
import sys
import numpy as np
from ssmtool.cache import Cache, digest
cache, fill = Cache(sys.argv[1]), float(sys.argv[2])
print("ready", flush=True)
for turn in range(int(sys.argv[3])):
    cache.put(digest("race", 1, turn % 3), {"x": np.full(20_000, fill)})
"""


def write(folder, fill, turns):
    args = [sys.executable, "-c", WRITER, str(folder), str(fill), str(turns)]
    return subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE)


def test_two_processes_that_write_the_same_entries_and_one_that_reads_never_mix_them(tmp_path):
    writers, cache, seen = [write(tmp_path, fill, 200) for fill in (1, 2)], Cache(tmp_path), set()
    while any(writer.poll() is None for writer in writers):
        for turn in range(3):
            found = cache.get(digest("race", 1, turn))
            if found is None:
                assert not (tmp_path / "results" / digest("race", 1, turn)).exists() or not seen
                continue
            assert len(set(found["x"])) == 1
            seen.add(found["x"][0])
    assert [writer.wait() for writer in writers] == [0, 0]
    assert seen <= {1.0, 2.0}
    assert all(cache.get(digest("race", 1, turn)) is not None for turn in range(3))
    assert not list((tmp_path / "results").glob("*.new"))


def test_a_writer_killed_at_any_moment_leaves_whole_entries_or_none(tmp_path):
    moments = random.Random(0)
    for _ in range(8):
        writer = write(tmp_path, 1, 10**6)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(moments.uniform(0, 0.05))
        writer.kill()
        writer.communicate()
        for turn in range(3):
            path, found = tmp_path / "results" / digest("race", 1, turn), Cache(tmp_path).get(digest("race", 1, turn))
            assert same(found, {"x": np.ones(20_000)}) if path.exists() else found is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("ab",)), (("a", "b"), ("b", "a")), ((1,), (1.0,)), ((1,), (True,)), ((None,), (False,)),
        (("1",), (1,)), (("a",), (b"a",)), ((0.0,), (-0.0,)), (((1, 2), 3), ((1,), 2, 3)), (((),), ({},)),
        (({"a": 1},), ({"a": 2},)), (({"a": "b"},), ({"b": "a"},)),
        ((np.zeros(2),), (np.zeros(2, np.float32),)), ((np.zeros((2, 3)),), (np.zeros((3, 2)),)),
        ((np.zeros(2),), (np.zeros((2, 1)),)), ((np.zeros(1),), (0.0,)), ((np.array([1, 2]),), (np.array([2, 1]),)),
    ],
)  # fmt: skip
def test_what_differs_has_another_key(one, other):
    assert digest("x", 1, *one) != digest("x", 1, *other)


def test_the_computation_and_its_version_are_in_the_key():
    assert len({digest("a", 1, 5), digest("a", 2, 5), digest("b", 1, 5)}) == 3


def test_what_is_the_same_has_the_same_key():
    assert digest("x", 1, {"a": 1, "b": 2}) == digest("x", 1, {"b": 2, "a": 1})
    assert digest("x", 1, (1, 2)) == digest("x", 1, [1, 2])
    assert digest("x", 1, np.float64(0.5), np.int64(3), np.bool_(True)) == digest("x", 1, 0.5, 3, True)
    grid = np.arange(6.0).reshape(2, 3)
    assert digest("x", 1, grid) == digest("x", 1, np.asfortranarray(grid)) == digest("x", 1, grid.astype(">f8"))
    assert digest("x", 1, "\ud800") != digest("x", 1, "?")  # a lone surrogate of a file name


def test_a_key_is_the_same_in_every_process():
    code = "from ssmtool.cache import digest; print(digest('test', 1, 'one'))"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout.decode().strip() == KEY


@pytest.mark.parametrize("part", [{1, 2}, object(), np.array([None]), np.longdouble(1), np.datetime64("2020")])
def test_what_has_no_canonical_bytes_is_refused(part):
    with pytest.raises(TypeError):
        digest("x", 1, part)


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.undo()  # of what keeps tests away from the user's cache
    monkeypatch.setenv("SSMTOOL_CACHE", str(tmp_path / "own"))
    assert Cache.default().folder == tmp_path / "own" / "results"
    monkeypatch.delenv("SSMTOOL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert Cache.default().folder == tmp_path / "xdg" / "ssmtool" / "results"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Cache.default().folder == tmp_path / ".cache" / "ssmtool" / "results"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # no home
    assert Cache.default().folder is None
