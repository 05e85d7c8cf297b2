"""One file written by torch.save: only tensors and plain containers are unpickled, never code."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmtool.checkpoint.documents import clip
from ssmtool.checkpoint.dtypes import BITS
from ssmtool.checkpoint.files import BLOCK, check_unchanged, reading, regular_size, stamp
from ssmtool.checkpoint.header import AGAIN
from ssmtool.checkpoint.sniff import foreign, is_pickle, is_safetensors, is_zip
from ssmtool.checkpoint.state_dict import select
from ssmtool.checkpoint.tensors import TensorInfo
from ssmtool.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64", "complex128": "C128",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16",
    "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
}  # fmt: skip

_REMAP = 256 << 20
"""Bytes read before the file is mapped afresh: PyTorch can only map it, and pages once read stay resident till then."""


class PickleFile:
    """A `WeightsFile` written by torch.save. Tied tensors appear once per name.

    Args:
        path: of the file.

    Raises:
        CheckpointError: not such a file, damaged, holding code or other objects than tensors, no state dict in it, or
            tensors that are sparse, quantised or larger than the file.
    """

    def __init__(self, path: Path) -> None:
        self.stamp = stamp(path)
        if not is_pickle(path):
            raise _refusal(path)
        self.path = path
        self.metadata: dict[str, str] = {}
        self._mapped = is_zip(path)
        state, self.extras = self._load()
        self.tensors = {name: _info(tensor, f"{path}, tensor {clip(name)}") for name, tensor in state.items()}
        self._state: dict[str, Tensor] | None = state
        self._read = 0

    def chunks(self, name: str) -> Iterator[bytes]:
        """The tensor's bytes, row-major, in pieces of at most 1 MiB. Raises CheckpointError if the file changed."""
        import torch

        check_unchanged(self.path, self.stamp)
        if self._state is None:
            self._state, self._read = self._load()[0], 0
        tensor = self._state.get(name)
        if tensor is None or _info(tensor, str(self.path)) != self.tensors[name]:
            raise CheckpointError("changed while it was in use", where=str(self.path))
        flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()
        self._read += flat.size
        if self._mapped and self._read > _REMAP:
            self._state = None
        del tensor
        for start in range(0, flat.size, BLOCK):
            # A page of a mapped file that was cut short is not there: reading it would end the process.
            check_unchanged(self.path, self.stamp)
            yield flat[start : start + BLOCK].tobytes()
        check_unchanged(self.path, self.stamp)

    def _load(self) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        return select(unpickled(self.path, mapped=self._mapped), where=str(self.path))


def unpickled(path: Path, *, mapped: bool = False) -> Any:
    """What torch.save wrote: tensors, numbers, strings and containers of them; nothing else is made, no code is run.

    Args:
        path: of the file.
        mapped: leave the data of a zip archive on disk until they are looked at.

    Raises:
        CheckpointError: not such a file, damaged, or holding code or other objects.
    """
    import torch

    if is_zip(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of is refused below
            with contextlib.ExitStack() as stack:
                stack.enter_context(_short_messages())
                file = path if mapped else stack.enter_context(_Bounded(io.FileIO(path)))
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        with reading(path):
            raise error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to trigger
        raise _unpickling_error(error, path) from error


_MESSAGES = threading.Lock()


class _Short(pickle.UnpicklingError):
    """Says no more than a beginning, whatever a damaged file has for a name."""

    def __init__(self, *words: object) -> None:
        super().__init__(*(str(word)[:1000] for word in words))


@contextlib.contextmanager
def _short_messages() -> Iterator[None]:
    """Errors of PyTorch's restricted unpickler kept short.

    torch.load searches their text with an expression that takes the square of the length of its longest word: a file
    of 100 kB, one name of brackets, would take a minute to be refused. Where a release has no such error, nothing is
    done.
    """
    from torch import _weights_only_unpickler as unpickler

    with _MESSAGES:
        before = getattr(unpickler, "UnpicklingError", None)
        if before is not None:
            unpickler.UnpicklingError = _Short  # type: ignore[attr-defined]
        try:
            yield
        finally:
            if before is not None:
                unpickler.UnpicklingError = before  # type: ignore[attr-defined]


class _Bounded(io.BufferedReader):
    """A file that does not prepare room for more bytes than it has left, whatever a damaged pickle asks for."""

    def read(self, size: int | None = -1, /) -> bytes:
        left = os.fstat(self.fileno()).st_size - self.tell()
        return super().read(left if size is None or size < 0 else min(size, left))


def _check_archive(path: Path) -> None:
    """Refuse archives whose members claim more bytes than the file has: unpacking would allocate what they claim."""
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        text = f"is a damaged zip archive ({clip(str(error))})"
        raise CheckpointError(text, where=str(path), remedy=AGAIN) from error
    claimed = sum(member.file_size for member in members)
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or claimed > regular_size(path):
        raise CheckpointError("is a compressed zip archive, not what torch.save writes", where=str(path), remedy=AGAIN)


def _unpickling_error(error: Exception, path: Path) -> CheckpointError:
    text = str(error).strip()[:4000] or type(error).__name__
    if "TorchScript" in text:
        return CheckpointError(
            "is a TorchScript archive, which is code", where=str(path), remedy="Save the module's state_dict() instead"
        )
    refused = re.search(r"(?:GLOBAL|global|type|class) ([\w.]+\.[\w.]+)", text) if "nsupported" in text else None
    if refused:
        return CheckpointError(
            f"holds more than tensors ({refused[1]}) and was not unpickled, as that could run code",
            where=str(path),
            remedy="Where you trust it, load it and save its state_dict alone, best as .safetensors",
        )
    return CheckpointError(
        f"is not a readable PyTorch checkpoint ({clip(text.splitlines()[0])})",
        where=str(path),
        remedy=AGAIN,
    )


def _info(tensor: Tensor, where: str) -> TensorInfo:
    """Shape and dtype; refuses layouts that have no plain bytes."""
    import torch

    if tensor.layout != torch.strided or tensor.is_nested:
        raise CheckpointError("is sparse or nested", where=where, remedy="Save it dense, e.g. with tensor.to_dense()")
    if tensor.is_quantized:
        raise CheckpointError("is quantised", where=where, remedy="Save it dequantised, with tensor.dequantize()")
    if tensor.device.type != "cpu":
        raise CheckpointError(f"is on device {tensor.device} and has no data", where=where, remedy="Save real weights")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _NAMES:
        raise CheckpointError(f"has dtype {dtype}, which no checkpoint format stores", where=where)
    info = TensorInfo(tuple(tensor.shape), _NAMES[dtype])
    size = info.size * BITS[info.dtype] // 8
    # an expanded view of little data can claim petabytes
    if size > max(64 << 20, tensor.untyped_storage().nbytes()):
        raise CheckpointError(f"claims {size} bytes but stores fewer", where=where, remedy="Save tensor.contiguous()")
    return info


def _refusal(path: Path) -> CheckpointError:
    """Why a file that does not start like a PyTorch checkpoint is none."""
    if is_safetensors(path):
        return CheckpointError(
            "is a safetensors file, not a PyTorch pickle",
            where=str(path),
            remedy=f"Rename it to {path.stem}.safetensors",
        )
    what, remedy = foreign(path) or ("is not a PyTorch checkpoint", AGAIN)
    return CheckpointError(what, where=str(path), remedy=remedy)
