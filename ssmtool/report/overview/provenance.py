"""Where the numbers come from: files and their hashes, versions, the command, the record of the reduction."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np

from ssmtool.pipeline.portrait import Portrait
from ssmtool.report.overview.view import Part, grid
from ssmtool.report.text.numbers import plural, size
from ssmtool.version import __version__

if TYPE_CHECKING:
    from ssmtool.checkpoint import Checkpoint


def provenance_part(found: Portrait, command: str) -> Part:
    """The last section."""
    import torch

    rows: list[tuple[str, str]] = []
    if command:
        rows.append(("command", command))
    rows += _file("model", found.model.checkpoint)
    if found.reduced is not None:
        rows += _file("reduced", found.reduced.checkpoint)
        record = found.record
        if record:
            source = record.get("source_sha256")
            ours = source == found.model.checkpoint.sha256()
            rows.append(("reduced: target", str(record.get("target", "–"))))
            rows.append(("reduced: made by", f"ssmtool {record.get('version', '?')}"))
            rows.append(("reduced: made from", f"{source}" + (", the model above" if ours else ", another model")))
        else:
            rows.append(("reduced: record", "none: not written by ssmtool compress, or the record was lost"))
    if found.tokens is not None:
        rows.append(("tokens", found.tokens.description))
        rows.append(("tokens: sha256", found.tokens.sha256))
        if found.diagnosis is not None and found.diagnosis.tokens is not None:
            used = f"{found.diagnosis.sequences} × {found.diagnosis.length} of them in the sections of diagnose"
            rows.append(("tokens: used", used))
    python, numpy = platform.python_version(), np.__version__
    rows.append(("versions", f"ssmtool {__version__}, Python {python}, PyTorch {torch.__version__}, NumPy {numpy}"))
    rows.append(("machine", f"{platform.system()} {platform.machine()}"))
    return Part("provenance", "Provenance", grids=(grid("Inputs and versions", ("what", "value"), rows, (0, 1)),))


def _file(what: str, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    return [
        (what, str(checkpoint.path)),
        (f"{what}: sha256", checkpoint.sha256()),
        (
            f"{what}: content",
            f"{checkpoint.kind}, {plural(len(checkpoint.tensors), 'tensor')}, {size(checkpoint.data_bytes)}",
        ),
    ]
