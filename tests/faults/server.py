"""Command lines in processes of their own, forked from one that has imported everything: python -m tests.faults.server.

One JSON object a line. ``{"start": [arguments], "cwd": …, "log": …}`` forks a child and answers with its process id;
``{"wait": id}`` answers with its exit code, negative for a signal. The child's output goes to ``<log>.out`` and
``<log>.err``. ``umask`` and ``largest`` (bytes a file may have) are set in the child.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any


def main() -> None:
    """Answer requests until standard input ends."""
    import ssmtool.checks.check
    import ssmtool.pipeline.compress
    import ssmtool.pipeline.identify
    import ssmtool.pipeline.refine_checkpoint
    import ssmtool.pipeline.selective_compress
    import ssmtool.pipeline.selective_hsv
    import ssmtool.report.calibrated_plot
    import ssmtool.report.documents
    import ssmtool.report.drawing
    import ssmtool.report.overview.build
    import ssmtool.report.section_plot
    import ssmtool.training.run  # noqa: F401 - what every child would import anew

    for line in sys.stdin:
        request = json.loads(line)
        answer = _start(request) if "start" in request else os.waitpid(request["wait"], 0)[1]
        print(answer if "start" in request else os.waitstatus_to_exitcode(answer), flush=True)


def _start(request: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(request["cwd"])
        for stream, name in ((0, os.devnull), (1, request["log"] + ".out"), (2, request["log"] + ".err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), stream)
        sys.stdin, sys.stdout, sys.stderr = (open(n, mode) for n, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
        os.umask(request["umask"])
        if request["largest"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest"], request["largest"]))
        from ssmtool.__main__ import main as program

        code = program(request["start"])
        sys.stdout.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
