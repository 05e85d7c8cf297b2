"""Data that a page's own script reads: nothing in it ends the script."""

from __future__ import annotations

import json
from typing import Any


def script_json(value: Any) -> str:
    """JSON that may stand inside <script>: neither </script> nor <!-- nor a line separator can be in it.

    Numbers that are not finite become null.
    """
    text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value
