"""Models with other blocks than mixers: run by transformers, unmodified, with hooks on their mixers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ssmtool.errors import FamilyError, UsageError
from ssmtool.families._contract import Layer
from ssmtool.pipeline.generate import BATCH
from ssmtool.pipeline.model import Model
from ssmtool.pipeline.projected import mixer_path
from ssmtool.runtime import patch
from ssmtool.runtime.modeling_projected import place
from ssmtool.selective.language import Visit, sum_of
from ssmtool.selective.mixers import to_torch

AGREEMENT = {torch.float64: 1e-3, torch.float32: 1e-3}  # largest relative difference between their code and ours
COARSE = 5e-2  # the same in half precision, whose own rounding is larger than what the check looks for
CHECKED_TOKENS = 128  # of the first batch: enough to tell a wrong formula from rounding

Enter = Callable[[str, Tensor, Tensor], None]
Leave = Callable[[str, Tensor], "Tensor | None"]


def transformers() -> Any:
    """The transformers library. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as missing:
        raise UsageError(
            "the model has blocks that are not state-space layers; running it needs the transformers library",
            remedy="Install it: pip install ssmtool[hf]",
        ) from missing


@contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Without the bars and hints that transformers writes to standard error; its settings come back afterwards."""
    logging = library.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


class HookedModel:
    """A causal language model of transformers. Made by `open_runner`; see `Runner`.

    On the first batch, what the project computes for every mixer is compared with what the model's own code computed.

    Args:
        model: a directory with config.json, loaded by the class that transformers itself has for its model type: no
            code from the directory is run.
        device, dtype: of the weights.

    Attributes:
        names, vocabulary: see `Runner`.
        device: where the weights are.
        module: the transformers model.

    Raises:
        UsageError: transformers is not installed.
        FamilyError: the checkpoint is no model that transformers can load, or its modules are not those of the file.
    """

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        checkpoint = model.checkpoint
        if checkpoint.kind != "directory" or checkpoint.config is None:
            raise FamilyError(
                "its tensors are no whole stack of embedding, mixer blocks and head, and there is no config.json that "
                "says how they are run",
                where=str(checkpoint.path),
                remedy="Give the directory of a language model, with its config.json",
            )
        library = transformers()
        try:
            with quiet(library):
                module, told = library.AutoModelForCausalLM.from_pretrained(
                    checkpoint.path,
                    local_files_only=True,
                    trust_remote_code=False,
                    dtype=dtype,
                    output_loading_info=True,
                )
        except Exception as problem:  # for a config.json that does not fit, the library raises errors of any type
            first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
            raise FamilyError(
                f"transformers cannot load it: {first}",
                where=str(checkpoint.path),
                remedy="Models of mixers alone, and language models that transformers knows, can be run on tokens",
            ) from problem
        if told["missing_keys"]:
            raise FamilyError(
                f"transformers' {type(module).__name__} finds no {', '.join(sorted(told['missing_keys'])[:3])} in it",
                where=str(checkpoint.path),
            )
        if any("project_b" in layer.tensors for layer in model.layers):
            patch(module, checkpoint.path)
        self.module: Any = module.eval().requires_grad_(False).to(device)
        self.vocabulary: int = int(module.get_input_embeddings().weight.shape[0])
        # Sequences do not end: what the model would write after its end token is as good to look at.
        self.module.generation_config.eos_token_id = None
        self.device = str(device)
        self._model, self._dtype = model, dtype
        self._paths = module_paths(self.module, [layer for layer in model.layers if not layer.lti])
        self.names: tuple[str, ...] = tuple(self._paths)
        self._scale = dict.fromkeys(self.names, 1.0)
        self._checked = False

    def logits(self, tokens: Tensor, visit: Visit | None = None) -> Tensor:
        """As `LanguageModel.logits`.

        Raises:
            FamilyError: on the first batch, if the model's code computes something else than the project.
        """
        if not self._checked:
            self._check(tokens[:1, :CHECKED_TOKENS])
            self._checked = True
        if visit is None:
            return self._run(tokens)
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def enter(name: str, x: Tensor, residual: Tensor) -> None:
            seen[name] = (x, residual)

        def leave(name: str, out: Tensor) -> Tensor | None:
            added = visit(name, *seen.pop(name))
            return None if added is None else (added / self._scale[name]).to(out.dtype)

        return self._run(tokens, enter, leave)

    def _run(self, tokens: Tensor, enter: Enter | None = None, leave: Leave | None = None) -> Tensor:
        """Logits, with `enter(name, input, residual stream)` before and `leave(name, output)` after every mixer."""
        tokens = tokens.to(self.device)
        with ExitStack() as hooks:
            hooks.enter_context(quiet(transformers()))
            if enter is None or leave is None:
                return self.module(input_ids=tokens, use_cache=False).logits
            residual: dict[str, Tensor] = {}
            for name, path in self._paths.items():
                mixer = self.module.get_submodule(path)
                block = self.module.get_submodule(path.rpartition(".")[0])

                def before_block(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    residual[name] = _hidden_states(args, kwargs)

                def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    enter(name, _hidden_states(args, kwargs), residual.pop(name))

                def after(_: nn.Module, args: Any, out: Any, name: str = name) -> Any:
                    if isinstance(out, tuple):
                        first = leave(name, out[0])
                        return None if first is None else (first, *out[1:])
                    return leave(name, out)

                for handle in (
                    block.register_forward_pre_hook(before_block, with_kwargs=True),
                    mixer.register_forward_pre_hook(before, with_kwargs=True),
                    mixer.register_forward_hook(after),
                ):
                    hooks.callback(handle.remove)
            return self.module(input_ids=tokens, use_cache=False).logits

    @torch.no_grad()
    def sample(self, count: int, length: int, seed: int, start: int | None) -> Tensor:
        """As `ssmtool.pipeline.generate.sample`, by the generation of transformers."""
        with torch.random.fork_rng(), quiet(transformers()):
            torch.manual_seed(seed)
            parts = []
            for first in range(0, count, BATCH):
                rows = min(BATCH, count - first)
                shape = (rows, 1)
                begin = torch.randint(self.vocabulary, shape) if start is None else torch.full(shape, start)
                begin = begin.to(self.device)
                if length > 1:
                    begin = self.module.generate(
                        input_ids=begin,
                        attention_mask=torch.ones_like(begin),
                        do_sample=True,
                        temperature=1.0,
                        top_k=0,
                        top_p=1.0,
                        max_new_tokens=length - 1,
                    )
                parts.append(begin.cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def _check(self, tokens: Tensor) -> None:
        """Compare the project's mixers with the model's code, and find the factor between the two where there is one.

        Some models multiply what a mixer gives by a number of their config, the layer's scale_out, outside of it; the
        canonical mixer has that number folded into its output.

        Raises:
            FamilyError: they differ by more than rounding.
        """
        layers = {layer.name: layer for layer in self._model.layers}
        inputs: dict[str, Tensor] = {}
        limit = AGREEMENT.get(self._dtype, COARSE)

        def enter(name: str, x: Tensor, _: Tensor) -> None:
            inputs[name] = x

        def leave(name: str, out: Tensor) -> None:
            x = inputs.pop(name)
            mixers = tuple(to_torch(m, self._dtype, str(x.device)) for m in self._model.mixers(layers[name]))
            ours, theirs = sum_of(mixers, x).double(), out.double()
            factors = (1.0, layers[name].options.get("scale_out", 1.0))
            errors = {scale: float((ours - scale * theirs).norm() / ours.norm()) for scale in factors}
            best = min(errors, key=lambda scale: errors[scale])
            if not errors[best] <= limit:
                raise FamilyError(
                    "the model's code computes something else than its file says: outputs differ by "
                    f"{errors[best]:.2g}, relative, where {limit:g} is allowed",
                    where=f"{self._model.checkpoint.path}, layer {name}",
                    remedy="Its options are not supported; please report the model",
                )
            self._scale[name] = best

        self._run(tokens, enter, leave)


def module_paths(module: nn.Module, layers: Iterable[Layer]) -> dict[str, str]:
    """Layer name -> path of its mixer in a transformers model, in order of application.

    Prefixes differ between a file and the module that is made of it: layers are told by what follows the first number
    in the path, which is the block's place.

    Raises:
        FamilyError: a layer without a module, or two modules for one layer.
    """
    wanted = {place(mixer_path(layer)): layer.name for layer in layers}
    found: dict[str, str] = {}
    for path, part in module.named_modules():
        name = wanted.get(place(path))
        if name is None or not hasattr(part, "A_log"):
            continue
        if name in found:
            raise FamilyError(f"two modules belong to one layer: {found[name]} and {path}", where=name)
        found[name] = path
    missing = [name for name in wanted.values() if name not in found]
    if missing:
        raise FamilyError(f"transformers' {type(module).__name__} has no such mixer", where=", ".join(missing[:4]))
    return found


def _hidden_states(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]
