"""`ssmtool` and `python -m ssmtool`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments after the program's name; those of the process by default.

    Returns:
        exit code: 0 done, 1 a validation that failed, 2 usage, input or internal error, 130 interrupted,
        141 nobody reads standard output any more.
    """
    from ssmtool.cli.run import run

    return run(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
