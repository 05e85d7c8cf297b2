"""One tree of errors. Every message says what is wrong, where, and what to do about it, in one line."""

from __future__ import annotations

from ssmtool.shown import one_line


class SsmtoolError(Exception):
    """Anything ssmtool refuses to do, and why.

    Args:
        what: what is wrong.
        where: file, tensor or layer it is wrong in; empty if it is about the command itself.
        remedy: what the user can do; empty if there is nothing to do.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, str(where), remedy
        super().__init__(self.line())

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes whole."""
        return _again, (type(self), self.what, self.where, self.remedy)

    def line(self) -> str:
        """The whole message on one line: ``where: what. remedy``."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.remedy:
            text = f"{text.rstrip('.')}. {self.remedy}"
        return one_line(text)


class UsageError(SsmtoolError):
    """Options that contradict each other or are out of range."""


class CheckpointError(SsmtoolError):
    """A checkpoint that cannot be read: missing, truncated, corrupt, unsafe, not finite."""


class OutputError(SsmtoolError):
    """A destination that cannot be written: exists, equals the input, disk full, verification failed."""


class FamilyError(SsmtoolError):
    """Tensors that do not form a known state-space layer, or do so inconsistently."""


class UnstableError(SsmtoolError):
    """A layer with an eigenvalue on or outside the unit circle where a stable one is needed."""


class ReductionError(SsmtoolError):
    """A target no reduction of this system reaches; the message names the best reachable value."""


class CalibrationError(SsmtoolError):
    """Tokens that do not determine what was to be measured on them."""


class DataError(SsmtoolError):
    """Files of a task that are missing, damaged, or of another format; signals that do not determine a system."""


class MismatchError(SsmtoolError):
    """Two checkpoints that do not belong together."""


class EngineError(SsmtoolError):
    """Processes or a cluster that cannot do the work they were given."""


def _again(kind: type[SsmtoolError], what: str, where: str, remedy: str) -> SsmtoolError:
    return kind(what, where=where, remedy=remedy)
