"""Trainable Mamba-1 and Mamba-2 language models under the tensor names of Hugging Face's Mamba and Mamba2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssmtool.selective.language import LanguageModel
from ssmtool.selective.mixers import DiagonalMixer, Mixer, ScalarMixer

VOCABULARY = 256
EPS = 1e-5
TAPS = 4


@dataclass(frozen=True)
class Sizes:
    """Everything that decides the shapes.

    Attributes:
        kind: "mamba" or "mamba2".
        width: d. The inner width is twice that.
        depth: blocks.
        states: N.
        head: P, width of a head (mamba2 only).
    """

    kind: str
    width: int
    depth: int
    states: int
    head: int = 32

    @property
    def inner(self) -> int:
        """E."""
        return 2 * self.width

    @property
    def rank(self) -> int:
        """R of Mamba-1."""
        return math.ceil(self.width / 16)

    @property
    def heads(self) -> int:
        """H of Mamba-2."""
        return self.inner // self.head


class Mixing(nn.Module):
    """One mixer's parameters under their checkpoint names."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        d, inner, states = sizes.width, sizes.inner, sizes.states
        wide = inner if sizes.kind == "mamba" else inner + 2 * states
        rows = 2 * inner if sizes.kind == "mamba" else 2 * inner + 2 * states + sizes.heads
        self.in_proj = nn.Linear(d, rows, bias=False)
        self.conv1d = nn.Conv1d(wide, wide, TAPS, groups=wide, padding=TAPS - 1)
        self.out_proj = nn.Linear(inner, d, bias=False)
        nn.init.normal_(self.out_proj.weight, std=1 / math.sqrt(inner * 2 * sizes.depth))
        if sizes.kind == "mamba":
            self.x_proj = nn.Linear(inner, sizes.rank + 2 * states, bias=False)
            self.dt_proj = nn.Linear(sizes.rank, inner)
            nn.init.uniform_(self.dt_proj.weight, -(sizes.rank**-0.5), sizes.rank**-0.5)
            self.dt_proj.bias = nn.Parameter(_step_bias(inner))
            self.A_log = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(inner, 1))
            self.D = nn.Parameter(torch.ones(inner))
        else:
            self.A_log = nn.Parameter(torch.empty(sizes.heads).uniform_(1, 16).log())
            self.dt_bias = nn.Parameter(_step_bias(sizes.heads))
            self.D = nn.Parameter(torch.ones(sizes.heads))
            self.norm = nn.RMSNorm(inner, EPS)

    def mixer(self) -> Mixer:
        """The canonical mixer, a view of the parameters."""
        sizes = self.sizes
        taps = self.conv1d.weight[:, 0]
        if sizes.kind == "mamba":
            in_x, in_z = self.in_proj.weight.chunk(2)
            low, b, c = self.x_proj.weight.split([sizes.rank, sizes.states, sizes.states])
            return DiagonalMixer(
                x_dt=low[None],
                x_b=b[None],
                x_c=c[None],
                dt_weight=self.dt_proj.weight[None],
                dt_bias=self.dt_proj.bias,
                a_log=self.A_log,
                d_skip=self.D,
                in_x=in_x,
                in_z=in_z,
                conv=taps,
                conv_bias=self.conv1d.bias,
                out=self.out_proj.weight,
            )
        inner, states = sizes.inner, sizes.states
        in_z, in_x, in_b, in_c, in_dt = self.in_proj.weight.split([inner, inner, states, states, sizes.heads])
        return ScalarMixer(
            in_z=in_z,
            in_x=in_x,
            in_b=in_b,
            in_c=in_c,
            in_dt=in_dt,
            conv=taps,
            conv_bias=self.conv1d.bias,
            a_log=self.A_log,
            dt_bias=self.dt_bias,
            d_skip=self.D[:, None],
            out=self.out_proj.weight,
            groups=1,
            norm=self.norm.weight,
            norm_eps=EPS,
        )


class Block(nn.Module):
    """Norm and mixer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(sizes.width, EPS)
        self.mixer = Mixing(sizes)


class Backbone(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, sizes.width)
        nn.init.normal_(self.embeddings.weight, std=0.02)
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.norm_f = nn.RMSNorm(sizes.width, EPS)

    def blocks(self) -> list[Block]:
        """The layers in order."""
        return [layer for layer in self.layers if isinstance(layer, Block)]


class ByteModel(nn.Module):
    """A byte-level language model; its state_dict is what Hugging Face's class of `kind` loads."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.backbone = Backbone(sizes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, L) bytes to logits (b, L, 256)."""
        blocks = {f"backbone.layers.{i}.mixer": block for i, block in enumerate(self.backbone.blocks())}
        model = LanguageModel(
            embedding=self.backbone.embeddings.weight,
            head=self.backbone.embeddings.weight,
            norms={name: block.norm.weight for name, block in blocks.items()},
            mixers={name: (block.mixer.mixer(),) for name, block in blocks.items()},
            final_norm=self.backbone.norm_f.weight,
            eps=EPS,
        )
        return model.logits(tokens)

    def config(self) -> dict[str, Any]:
        """config.json of the Hugging Face class."""
        sizes = self.sizes
        shared = {
            "model_type": sizes.kind,
            "architectures": [{"mamba": "MambaForCausalLM", "mamba2": "Mamba2ForCausalLM"}[sizes.kind]],
            "vocab_size": VOCABULARY,
            "hidden_size": sizes.width,
            "state_size": sizes.states,
            "num_hidden_layers": sizes.depth,
            "expand": 2,
            "conv_kernel": TAPS,
            "use_bias": False,
            "use_conv_bias": True,
            "hidden_act": "silu",
            "layer_norm_epsilon": EPS,
            "residual_in_fp32": False,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
        }
        if sizes.kind == "mamba":
            return shared | {"time_step_rank": sizes.rank}
        return shared | {"num_heads": sizes.heads, "head_dim": sizes.head, "n_groups": 1, "chunk_size": 64}


def _step_bias(count: int, low: float = 1e-3, high: float = 1e-1) -> Tensor:
    """Inverse softplus of step sizes spread log-uniformly over [low, high]."""
    step = torch.empty(count).uniform_(math.log(low), math.log(high)).exp()
    return step + torch.log(-torch.expm1(-step))
