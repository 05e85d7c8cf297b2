"""Where tokens come from, and what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ssmtool.errors import CheckpointError, UsageError
from ssmtool.pipeline.model import load
from ssmtool.pipeline.runner import open_runner
from ssmtool.pipeline.tokens import TokenSource, read_tokens
from tests.pipeline.language_models import byte_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(byte_model(tmp_path_factory.mktemp("models") / "mamba2", "mamba2"))


@pytest.fixture(scope="module")
def runner(model):
    return open_runner(model, "cpu")


@pytest.fixture
def read(model, runner):
    return lambda **source: read_tokens(TokenSource(**source), model, runner)


ROWS = np.arange(40).reshape(4, 10)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", ">i4"])
def test_an_array(read, tmp_path, dtype):
    np.save(tmp_path / "some.npy", ROWS.astype(dtype))
    tokens = read(file=tmp_path / "some.npy")
    assert tokens.array.dtype == np.int64
    assert np.array_equal(tokens.array, ROWS)
    assert tokens.description == "4 x 10 tokens of some.npy"


def test_the_digest_is_of_the_tokens_and_their_shape(read, tmp_path):
    for name, rows in (("a", ROWS), ("b", ROWS.astype("uint8")), ("c", ROWS.reshape(5, 8)), ("d", ROWS + 1)):
        np.save(tmp_path / f"{name}.npy", rows)
    a, b, c, d = (read(file=tmp_path / f"{name}.npy").sha256 for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_safetensors(read, tmp_path):
    save_file({"anything": ROWS, "weights": np.ones(3)}, tmp_path / "one.safetensors")
    save_file({"tokens": ROWS, "lengths": np.arange(4)}, tmp_path / "named.safetensors")
    save_file({"left": ROWS, "right": ROWS}, tmp_path / "two.safetensors")
    save_file({"tokens": ROWS.astype(np.float32)}, tmp_path / "float.safetensors")
    assert np.array_equal(read(file=tmp_path / "one.safetensors").array, ROWS)
    assert np.array_equal(read(file=tmp_path / "named.safetensors").array, ROWS)
    with pytest.raises(UsageError, match="2 integer tensors, and none named tokens"):
        read(file=tmp_path / "two.safetensors")
    with pytest.raises(UsageError, match="integers, not F32"):
        read(file=tmp_path / "float.safetensors")


def test_fewer_sequences_are_spread_over_the_file(read, tmp_path):
    np.save(tmp_path / "some.npy", np.arange(180).reshape(30, 6))
    tokens = read(file=tmp_path / "some.npy", sequences=3)
    assert tokens.array[:, 0].tolist() == [0, 84, 174]


def test_text_as_bytes(read, tmp_path):
    (tmp_path / "a.txt").write_text("äbcdefghijkl", encoding="utf-8")
    tokens = read(text=tmp_path / "a.txt", as_bytes=True, length=6)
    assert tokens.array.tolist() == [[0xC3, 0xA4, *b"bcde"], [*b"fghijk"]]
    assert tokens.description == "2 x 6 tokens of a.txt as bytes"


def test_text_through_the_tokenizer(tmp_path):
    library = pytest.importorskip("tokenizers")
    folder = byte_model(tmp_path / "model", "mamba")
    words = {"[UNK]": 0, "one": 7, "two": 9}
    tokenizer = library.Tokenizer(library.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("one two three " * 4)
    model = load(folder)
    tokens = read_tokens(TokenSource(text=tmp_path / "a.txt", length=6), model, open_runner(model, "cpu"))
    assert tokens.array.tolist() == [[7, 9, 0, 7, 9, 0]] * 2
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        read_tokens(TokenSource(text=tmp_path / "a.txt", length=6), model, open_runner(model, "cpu"))


def test_text_without_the_library(tmp_path, monkeypatch):
    folder = byte_model(tmp_path / "model", "mamba")
    (folder / "tokenizer.json").write_text("{}")
    (tmp_path / "a.txt").write_text("text")
    model = load(folder)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"pip install ssmtool\[hf\]"):
        read_tokens(TokenSource(text=tmp_path / "a.txt"), model, open_runner(model, "cpu"))


def test_sampled(read, model, runner):
    tokens = read(sampled=3, length=9, seed=4)
    assert tokens.array.shape == (3, 9)
    assert tokens.description == "3 x 9 tokens sampled from the model itself, seed 4"
    assert (tokens.array[:, 0] == model.checkpoint.config["bos_token_id"]).all()
    assert read(sampled=3, length=9, seed=4).sha256 == tokens.sha256
    assert read(sampled=3, length=9, seed=5).sha256 != tokens.sha256


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.astype(float), "integers, not float64"),
        (np.ones((3, 8), bool), "integers, not bool"),
        (np.arange(8), r"shape \(8,\) are not \(sequences, length\)"),
        (np.zeros((0, 8), int), r"shape \(0, 8\)"),
        (np.zeros((8, 0), int), r"shape \(8, 0\)"),
        (ROWS + 226, r"token 256 \(sequence 3, position 0\) is not below the model's 256"),
        (ROWS - 1, r"token -1 \(sequence 0, position 0\)"),
        (ROWS[:, :3], "3 tokens are shorter than the model's convolution, 4"),
    ],
)
def test_arrays_that_are_no_tokens(read, tmp_path, rows, message):
    np.save(tmp_path / "some.npy", rows)
    with pytest.raises(UsageError, match=message) as error:
        read(file=tmp_path / "some.npy")
    assert "some.npy" in error.value.where


def test_files_that_cannot_be_read(read, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(CheckpointError, match=r"bad\.npy"):
        read(file=tmp_path / "bad.npy")
    with pytest.raises(CheckpointError, match="No such file"):
        read(file=tmp_path / "none.npy")
    with pytest.raises(CheckpointError, match="No such file"):
        read(text=tmp_path / "none.txt", as_bytes=True)


def test_texts_that_cannot_be_read(read, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abcd")
    with pytest.raises(UsageError, match=r"tokenizer\.json.*--bytes"):
        read(text=tmp_path / "a.txt")
    with pytest.raises(UsageError, match="4 tokens are fewer than one sequence of 256"):
        read(text=tmp_path / "a.txt", as_bytes=True)
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(UsageError, match=r"not UTF-8 text \(byte 3\)"):
        read(text=tmp_path / "a.txt")


def test_bytes_need_a_vocabulary_for_them(model, tmp_path):
    class Small:
        names, vocabulary = (), 100

        def logits(self, tokens, visit=None):
            raise NotImplementedError

    (tmp_path / "a.txt").write_text("x" * 300)
    with pytest.raises(UsageError, match="100 tokens, too few for bytes"):
        read_tokens(TokenSource(text=tmp_path / "a.txt", as_bytes=True), model, Small())


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"file": "a.npy", "text": "b.txt"},
        {"file": "a.npy", "sampled": 3},
        {"file": "a.npy", "as_bytes": True},
        {"sampled": 0},
        {"text": "b.txt", "length": 0},
        {"text": "b.txt", "sequences": 0},
    ],
)
def test_options_that_contradict_each_other(source):
    with pytest.raises(UsageError):
        TokenSource(**source)


def test_the_fixtures_are_tokens(read):
    fixtures = Path(__file__).parents[2] / "fixtures"
    assert read(file=fixtures / "stdlib-calibration.npy").array.shape == (256, 256)
    assert read(file=fixtures / "stdlib-heldout.npy").description == "128 x 512 tokens of stdlib-heldout.npy"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "is no tokenizer"),
        (b'{"version": "\x1b[2J"}', "is no tokenizer"),
        (b'{"version":"1.0","model":{"type":"WordPiece","vocab":{"a":0},"unk_token":"[U]"}}', "tokenizer"),
        (b"\xff\xfe", "is no tokenizer"),
    ],
)
def test_a_tokenizer_that_cannot_be_is_one_line(read, model, tmp_path, content, words):
    place = model.checkpoint.path / "tokenizer.json"
    before = place.read_bytes() if place.exists() else None
    place.write_bytes(content)
    (tmp_path / "a.txt").write_text("some text " * 40)
    try:
        with pytest.raises(CheckpointError, match=words) as error:
            read(text=tmp_path / "a.txt")
    finally:
        place.unlink() if before is None else place.write_bytes(before)
    assert error.value.line().isprintable()


def test_a_pipe_is_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    os.mkfifo(tmp_path / "a.txt")
    for options in ({"file": tmp_path / "a.npy"}, {"text": tmp_path / "a.txt", "as_bytes": True}):
        with pytest.raises(CheckpointError, match="not a regular file"):
            read(**options)
