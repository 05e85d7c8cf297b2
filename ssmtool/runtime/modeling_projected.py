"""Mamba-2 models of transformers whose scan runs with fewer states, on projected B and C.

ssmtool writes this file beside the weights it belongs to; it needs torch and transformers, not ssmtool. Load with

    AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True)

Every mixer that config.json names in `ssmtool_projected_states` has two more tensors, project_b and project_c
(G, r, N), and its scan reads project_b B and project_c C instead of B and C: r states instead of N, in prefill, in
decoding and in the cache. Everything else is the stock code of the model, which looks up its scan functions in its own
module; they are wrapped there, and the wrappers do nothing for a mixer without projectors.
"""

from __future__ import annotations

import functools
import re
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

STATES = "ssmtool_projected_states"
PREFIX = "Projected"
# Of the module whose scan functions are wrapped: a threading.local with .mixer, the mixer with projectors whose forward
# is running. It lies there because there may be several copies of this file in a process, but one wrapper only.
RUNNING = "_ssmtool_running_mixer"


def project(mixer: Any, project_b: Tensor, project_c: Tensor, scans: Mapping[str, Callable[..., Any]]) -> None:
    """Give a Mamba-2 mixer projectors, which become its parameters.

    Args:
        mixer: a module whose code calls scan functions of its own module.
        project_b, project_c: (G, r, N).
        scans: names of these functions and what takes their place, such as `SCANS`.

    Raises:
        RuntimeError: the mixer's code has no such functions.
    """
    intercept(type(mixer).__module__, scans)
    mixer.project_b, mixer.project_c = nn.Parameter(project_b), nn.Parameter(project_c)
    mixer.register_forward_pre_hook(_enter)
    mixer.register_forward_hook(_leave, always_call=True)


def intercept(module_name: str, scans: Mapping[str, Callable[..., Any]]) -> None:
    """Wrap the scan functions of a module, once. Raises RuntimeError if it lacks one of them."""
    module: Any = sys.modules[module_name]
    if hasattr(module, RUNNING):
        return
    for name in scans:
        if not callable(getattr(module, name, None)):
            raise RuntimeError(
                f"{module_name} has no {name}, which projected B and C are handed to; transformers has it from 5.17 on"
            )
    running = threading.local()
    for name, instead in scans.items():
        original = getattr(module, name)
        setattr(module, name, functools.wraps(original)(functools.partial(instead, running, original)))
    setattr(module, RUNNING, running)


def _enter(mixer: Any, args: Any) -> None:
    getattr(sys.modules[type(mixer).__module__], RUNNING).mixer = mixer


def _leave(mixer: Any, args: Any, out: Any) -> None:
    getattr(sys.modules[type(mixer).__module__], RUNNING).mixer = None


def _projected(B: Tensor, C: Tensor, mixer: Any) -> tuple[Tensor, Tensor]:
    """(..., G, N) -> (..., G, r)."""
    return (
        torch.einsum("...gn,grn->...gr", B, mixer.project_b.to(B.dtype)),
        torch.einsum("...gn,grn->...gr", C, mixer.project_c.to(C.dtype)),
    )


def scan_projected(
    running: Any,
    scan: Callable[..., Any],
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *args: Any,
    **kwargs: Any,
):
    """Whole sequences: B, C (b, L, G, N); the final state, and with it the cache, has the states of B."""
    mixer = getattr(running, "mixer", None)
    if mixer is not None:
        B, C = _projected(B, C, mixer)
    return scan(x, dt, A, B, C, *args, **kwargs)


def step_projected(
    running: Any,
    step: Callable[..., Any],
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *args: Any,
    **kwargs: Any,
):
    """One token: state (b, H, P, r), A (H, P, N) constant along N, B, C (b, G, N)."""
    mixer = getattr(running, "mixer", None)
    if mixer is not None:
        B, C = _projected(B, C, mixer)
        A = A[..., : B.shape[-1]]
    return step(state, x, dt, A, B, C, *args, **kwargs)


def never_fused(running: Any, fused: Callable[..., Any], *args: Any, **kwargs: Any):
    """One kernel for convolution and scan cannot project in between: None makes the mixer go step by step."""
    return fused(*args, **kwargs) if getattr(running, "mixer", None) is None else None


SCANS: Mapping[str, Callable[..., Any]] = {
    "mamba2_chunk_scan": scan_projected,
    "mamba2_selective_state_update": step_projected,
    "mamba2_split_conv1d_scan_combined": never_fused,
}


def mixers(model: nn.Module) -> dict[str, nn.Module]:
    """Mamba-2 mixers by their place: their path from the number of the block on, such as "3.mixer"."""
    found = {}
    for path, module in model.named_modules():
        decay = getattr(module, "A_log", None)
        if isinstance(decay, Tensor) and decay.ndim == 1:
            found[place(path)] = module
    return found


def place(path: str) -> str:
    """The path from its first number on: "backbone.layers.3.mixer" -> "3.mixer"."""
    number = re.search(r"(?:^|\.)(?=\d+(?:\.|$))", path)
    return path if number is None else path[number.end() :]


def widths(states: int | Mapping[str, int], found: Mapping[str, nn.Module]) -> dict[str, int]:
    """r by place. Raises ValueError for a place without a mixer."""
    if isinstance(states, int):
        return dict.fromkeys(found, states)
    missing = sorted(set(states) - set(found))
    if missing:
        raise ValueError(f"{STATES} of config.json names mixers the model does not have: {', '.join(missing[:4])}")
    return dict(states)


def _class(name: str) -> type:
    """The stock class of this name with projected mixers."""
    import transformers

    stock: Any = getattr(transformers, name)

    class Projected(stock):
        def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            found = mixers(self)
            for at, r in widths(getattr(config, STATES), found).items():
                mixer: Any = found[at]
                groups, full = int(mixer.n_groups), int(mixer.ssm_state_size)
                project(mixer, torch.empty(groups, r, full), torch.empty(groups, r, full), SCANS)

        @classmethod
        def is_custom_code(cls) -> bool:
            """No: it initialises as the stock model does. What is in no file, such as FalconH1's vector of multipliers,
            is computed on loading, and for code not its own the library leaves that away."""
            return False

    Projected.__name__ = Projected.__qualname__ = PREFIX + name
    Projected.__module__ = __name__
    return Projected


def __getattr__(name: str) -> Any:
    """ProjectedMamba2ForCausalLM and its like: made when asked for, so that only one model's code is imported."""
    if not name.startswith(PREFIX) or not name.endswith("ForCausalLM"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = _class(name.removeprefix(PREFIX))
    return made
