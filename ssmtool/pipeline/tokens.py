"""Token sequences that a selective model is looked at with: from a file, from text, or from the model itself."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssmtool.cache import Cache
from ssmtool.checkpoint import open_checkpoint
from ssmtool.checkpoint.arrays import read_array
from ssmtool.checkpoint.files import read_small
from ssmtool.errors import CheckpointError, UsageError
from ssmtool.pipeline.model import Model

if TYPE_CHECKING:
    from ssmtool.selective.language import Runner

LENGTH = 256
SEQUENCES = 256  # cut from a text at most, spread over all of it
TEXT_LIMIT = 1 << 30  # bytes of a text, which is read whole
BYTES = 256  # vocabulary that text as bytes needs


@dataclass(frozen=True)
class Tokens:
    """Token sequences and where they are from.

    Attributes:
        array: (S, L) int64, each in [0, vocabulary).
        description: for the report, such as "256 x 256 tokens of calibration.npy".
        sha256: of shape and values.
    """

    array: np.ndarray
    description: str
    sha256: str


@dataclass(frozen=True)
class TokenSource:
    """Where tokens are to come from: exactly one of `file`, `text` and `sampled`.

    Attributes:
        file: .npy, or .safetensors with one integer tensor or one named "tokens"; (sequences, length).
        text: UTF-8 text, cut into sequences of `length` tokens of the model's tokenizer.json.
        as_bytes: the bytes of `text` are its tokens.
        sampled: number of sequences to draw from the model itself.
        length: of sequences of text and of the model's own.
        sequences: at most so many, taken at equal distances; None is all of a file and SEQUENCES of a text.
        seed: of what the model draws.

    Raises:
        UsageError: not exactly one source, numbers out of range, `as_bytes` without text.
    """

    file: str | Path | None = None
    text: str | Path | None = None
    as_bytes: bool = False
    sampled: int | None = None
    length: int = LENGTH
    sequences: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = [
            option
            for option, value in (("--tokens", self.file), ("--text", self.text), ("--self", self.sampled))
            if value is not None
        ]
        if len(given) != 1:
            found = f"{' and '.join(given)} given" if given else "no tokens given"
            raise UsageError(
                found, remedy="Give exactly one of --tokens FILE, --text FILE and --self N (docs/tokens.md)"
            )
        if self.as_bytes and self.text is None:
            raise UsageError("--bytes says how a text is read, but there is no --text")
        for option, value in (("--self", self.sampled), ("--sequences", self.sequences), ("--length", self.length)):
            if value is not None and value < 1:
                raise UsageError(f"{option} {value} is not a positive number")


def read_tokens(source: TokenSource, model: Model, runner: Runner, *, cache: Cache | None = None) -> Tokens:
    """The sequences a source gives for a model.

    Args:
        source: what was asked for.
        model: its directory has the tokenizer, its config the first token of what it draws.
        runner: of the same model, for its vocabulary and for what it draws.
        cache: where what a runner of `open_runner` draws is kept, and found again; nowhere by default.

    Raises:
        UsageError: tokens the model does not have, of the wrong shape, or too short; a text without a way to read it.
        CheckpointError: a file that cannot be read.
    """
    if source.sampled is not None:
        array = _kept_sample(source, model, runner, cache)
        what = f"sampled from the model itself, seed {source.seed}"
    elif source.text is not None:
        array = _text(source, Path(source.text), model, runner.vocabulary)
        what = f"of {Path(source.text).name}" + (" as bytes" if source.as_bytes else "")
    else:
        assert source.file is not None
        array = spread_rows(_file(Path(source.file)), source.sequences)
        what = f"of {Path(source.file).name}"
    _check(array, str(source.file or source.text or "--self"), model, runner.vocabulary)
    rows, length = array.shape
    digest = hashlib.sha256(f"{rows} {length} ".encode() + array.astype("<i8").tobytes()).hexdigest()
    return Tokens(array, f"{rows} x {length} tokens {what}", digest)


def spread_rows(rows: np.ndarray, count: int | None) -> np.ndarray:
    """`count` rows at equal distances, the first and the last among them; all where there are no more."""
    if count is None or count >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _file(path: Path) -> np.ndarray:
    """Integers (S, L) of a file."""
    if path.suffix == ".safetensors":
        array = _safetensors(path)
    else:
        array = read_array(path, what="tokens", remedy="Give a .npy or .safetensors file")
    if not np.issubdtype(array.dtype, np.integer):
        raise UsageError(
            f"tokens are integers, not {array.dtype}", where=str(path), remedy="Store them as an integer array"
        )
    if array.ndim != 2 or 0 in array.shape:
        raise UsageError(
            f"tokens of shape {array.shape} are not (sequences, length)",
            where=str(path),
            remedy="Store them as a two-dimensional array that is not empty",
        )
    if array.dtype == np.uint64 and array.max() > np.iinfo(np.int64).max:
        raise UsageError(f"token {array.max()} is out of range", where=str(path))
    return array.astype(np.int64)


def _safetensors(path: Path) -> np.ndarray:
    """The tensor "tokens", or the only integer one."""
    file = open_checkpoint(path)
    whole = [name for name, info in file.tensors.items() if info.dtype[0] in "IU"]
    name = "tokens" if "tokens" in file.tensors else whole[0] if len(whole) == 1 else None
    if name is None:
        raise UsageError(
            f"{len(whole)} integer tensors, and none named tokens", where=str(path), remedy="Name the tensor tokens"
        )
    values = file.read(name)
    if name not in whole:
        raise UsageError(f"tokens are integers, not {file.tensors[name].dtype}", where=f"{path}, tensor {name}")
    return values


def _text(source: TokenSource, path: Path, model: Model, vocabulary: int) -> np.ndarray:
    """A text as (S, length) tokens."""
    data = read_small(path, TEXT_LIMIT)
    if source.as_bytes:
        if vocabulary < BYTES:
            raise UsageError(
                f"the model has {vocabulary} tokens, too few for bytes", where=str(path), remedy="Leave out --bytes"
            )
        stream = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise UsageError(f"is not UTF-8 text (byte {problem.start})", where=str(path)) from problem
        stream = np.array(encoded(text, model), dtype=np.int64)
    count = len(stream) // source.length
    if count == 0:
        raise UsageError(
            f"{len(stream)} tokens are fewer than one sequence of {source.length}",
            where=str(path),
            remedy="Give a longer text or a smaller --length",
        )
    rows = stream[: count * source.length].reshape(count, source.length)
    return spread_rows(rows, SEQUENCES if source.sequences is None else source.sequences)


def tokenizer(model: Model) -> Any:
    """The tokenizer beside the weights. Raises UsageError where there is none."""
    folder = model.checkpoint.path
    path = folder / "tokenizer.json"
    if model.checkpoint.kind != "directory" or not path.is_file():
        raise UsageError(
            "there is no tokenizer.json to read a text with",
            where=str(folder),
            remedy="Put it there, give --tokens FILE, or --bytes for a model of bytes",
        )
    try:
        library = importlib.import_module("tokenizers")
    except ImportError as missing:
        raise UsageError(
            "reading text needs the tokenizers library", remedy="Install it: pip install ssmtool[hf]"
        ) from missing
    with _refused(path, "is no tokenizer"):
        return library.Tokenizer.from_file(str(path))


def encoded(text: str, model: Model) -> list[int]:
    """A text as tokens of the tokenizer beside the weights. Raises UsageError, CheckpointError."""
    reader = tokenizer(model)
    with _refused(model.checkpoint.path / "tokenizer.json", "cannot read the text"):
        return reader.encode(text, add_special_tokens=False).ids


def decoded(tokens: list[int], model: Model) -> str:
    """Tokens as a text, with what is special in it. Raises UsageError, CheckpointError."""
    reader = tokenizer(model)
    with _refused(model.checkpoint.path / "tokenizer.json", "cannot write the text"):
        return reader.decode(tokens, skip_special_tokens=False)


@contextlib.contextmanager
def _refused(path: Path, what: str) -> Iterator[None]:
    """What the tokenizers library raises, which is bare Exception, or a panic that is not even that."""
    try:
        yield
    except BaseException as problem:
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{what}: {problem}", where=str(path), remedy="Download it again") from problem


def _kept_sample(source: TokenSource, model: Model, runner: Runner, cache: Cache | None) -> np.ndarray:
    """What the model draws, which takes longer than anything that is measured on it."""
    from ssmtool.pipeline.stages import Stages, ran_by

    drawn = ("sampled", source.sampled, source.length, source.seed)
    stage = Stages(cache, ran_by(runner), (model,)).stage(*drawn)
    shape = (source.sampled or 0, source.length)
    kept = stage.recall(lambda arrays: arrays["tokens"].reshape(shape).astype(np.int64))
    if kept is not None:
        return kept
    array = _sampled(source, model, runner)
    stage.keep(lambda: {"tokens": array})
    return array


def _sampled(source: TokenSource, model: Model, runner: Runner) -> np.ndarray:
    from ssmtool.selective.language import LanguageModel  # brings PyTorch, which whoever names a source may not need

    assert source.sampled is not None
    start = (model.checkpoint.config or {}).get("bos_token_id")
    if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start < runner.vocabulary:
        start = None
    if isinstance(runner, LanguageModel):
        from ssmtool.pipeline.generate import sample

        return sample(runner, source.sampled, source.length, source.seed, start).numpy()
    draw = getattr(runner, "sample", None)
    if draw is None:
        raise UsageError("this model cannot be sampled from", remedy="Give --tokens FILE or --text FILE")
    return draw(source.sampled, source.length, source.seed, start).numpy()


def _check(array: np.ndarray, where: str, model: Model, vocabulary: int) -> None:
    """Raises UsageError for tokens the model cannot read."""
    wrong = (array < 0) | (array >= vocabulary)
    if wrong.any():
        row, column = np.unravel_index(int(wrong.argmax()), array.shape)
        raise UsageError(
            f"token {array[row, column]} (sequence {row}, position {column}) is not below the model's {vocabulary}",
            where=where,
            remedy="Give tokens of this model's vocabulary",
        )
    least = max(shortest(model), 2)
    if array.shape[1] < least:
        raise UsageError(
            f"sequences of {array.shape[1]} tokens are shorter than the model's convolution, {least}",
            where=where,
            remedy="Give longer sequences",
        )


def shortest(model: Model) -> int:
    """Taps of the longest convolution in a selective layer: a shorter sequence would see nothing but padding."""
    return max((int(layer.options.get("taps", 1)) for layer in model.layers if not layer.lti), default=1)
