"""The sizes of a network: pure data, no torch. Plan counts with it, train builds from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wingspan.assets import OPEN_MODELS, asset_name
from wingspan.errors import InputError
from wingspan.project import ModelSection

Architecture = Literal["qwen3", "qwen3_moe", "llama"]

_HF_CLASSES: dict[str, Architecture] = {
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "LlamaForCausalLM": "llama",
}
_TIE_BELOW_PARAMETERS = 1.5e9  # above, an output matrix of its own costs little (Qwen3 does the same)


@dataclass(frozen=True)
class ModelShape:
    """A decoder: RMSNorm, rotary embedding, grouped-query attention, SwiGLU or experts."""

    architecture: Architecture
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tie_embeddings: bool
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-6
    max_positions: int = 8192
    experts: int = 0
    experts_per_token: int = 0
    expert_ffn: int = 0
    rope_scaling: tuple[tuple[str, Any], ...] = ()  # as Hugging Face names it, the type included

    @property
    def qk_norm(self) -> bool:
        """Qwen3 normalises queries and keys per head; Llama does not."""
        return self.architecture != "llama"

    @property
    def attention_parameters(self) -> int:
        """Matrix parameters of one attention block: q, k, v and o projections."""
        return 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)

    def _mlp_parameters(self, *, active: bool) -> int:
        if not self.experts:
            return 3 * self.hidden * self.ffn
        used = self.experts_per_token if active else self.experts
        return 3 * self.hidden * self.expert_ffn * used + self.hidden * self.experts

    @property
    def norm_parameters(self) -> int:
        """Norm weights of one block."""
        return 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def layer_parameters(self) -> int:
        """All parameters of one block."""
        return self.attention_parameters + self._mlp_parameters(active=False) + self.norm_parameters

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding, and of the output matrix where it is its own."""
        return self.vocab * self.hidden * (1 if self.tie_embeddings else 2)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.layers * self.layer_parameters + self.embedding_parameters + self.hidden

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through."""
        idle = self._mlp_parameters(active=False) - self._mlp_parameters(active=True)
        return self.parameters - self.layers * idle

    @property
    def matmul_parameters(self) -> int:
        """Matrix parameters that one token is multiplied with, output head included."""
        block = self.attention_parameters + self._mlp_parameters(active=True)
        return self.layers * block + self.vocab * self.hidden

    def training_flops_per_token(self, sequence: int) -> float:
        """Forward and backward FLOPs per token: 6 P_matmul + 6 L s a d with causal attention.

        PaLM (Chowdhery et al. 2022, appendix B), with attention halved because a causal kernel
        skips the masked half.
        """
        attention = 6 * self.layers * sequence * self.heads * self.head_dim
        return 6.0 * self.matmul_parameters + attention

    def to_hf_config(self) -> dict[str, Any]:
        """config.json of the same network for transformers, vLLM and llama.cpp."""
        name = next(hf for hf, own in _HF_CLASSES.items() if own == self.architecture)
        config: dict[str, Any] = {
            "architectures": [name],
            "model_type": self.architecture,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tie_embeddings,
            "rope_theta": self.rope_theta,  # read by transformers 4
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"} | dict(self.rope_scaling),
            "rms_norm_eps": self.norm_eps,
            "max_position_embeddings": self.max_positions,
            "hidden_act": "silu",
            "attention_bias": False,
        }
        if self.experts:
            config |= {
                "num_experts": self.experts,
                "num_experts_per_tok": self.experts_per_token,
                "moe_intermediate_size": self.expert_ffn,
                "norm_topk_prob": True,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
            }
        return config

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any], where: str = "config.json") -> ModelShape:
        """The shape of a Hugging Face checkpoint; raises InputError for a network wingspan cannot train."""
        name = (config.get("architectures") or ["?"])[0]
        if name not in _HF_CLASSES:
            raise InputError(
                f"architecture {name} is not supported", where=where, remedy=f"Use one of {', '.join(_HF_CLASSES)}"
            )
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind not in ("default", "linear", "llama3", "yarn"):
            raise InputError(f"rope scaling {rope} is not supported", where=where, remedy="Use a model without it")
        scaling = {name: value for name, value in rope.items() if name not in ("type", "rope_theta")}
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        return cls(
            architecture=_HF_CLASSES[name],
            layers=config["num_hidden_layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            head_dim=config.get("head_dim") or hidden // heads,
            ffn=config["intermediate_size"],
            vocab=config["vocab_size"],
            tie_embeddings=config.get("tie_word_embeddings", False),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta", 10_000.0)),
            norm_eps=config.get("rms_norm_eps", 1e-6),
            max_positions=config.get("max_position_embeddings", 8192),
            experts=config.get("num_experts") or config.get("num_local_experts", 0),  # transformers 5 writes the latter
            experts_per_token=config.get("num_experts_per_tok", 0),
            expert_ffn=config.get("moe_intermediate_size", 0),
            rope_scaling=() if kind == "default" else tuple(sorted((scaling | {"rope_type": kind}).items())),
        )


def shape_of(model: ModelSection) -> ModelShape:
    """The shape that [model] means: derived from depth, or that of the model it starts from.

    Raises InputError when the folder to start from has no readable config.json.
    """
    if model.start == "scratch":
        return _from_dials(model)
    if (name := asset_name(model.start)) is not None:
        return ModelShape.from_hf_config(OPEN_MODELS[name].config, where=model.start)
    path = Path(model.start) / "config.json"
    if not path.is_file():
        raise InputError(
            "the model to start from has no config.json",
            where=path,
            remedy="Set model.start to 'scratch', 'asset:NAME' or a Hugging Face folder",
        )
    return ModelShape.from_hf_config(json.loads(path.read_text()), where=str(path))


def _from_dials(model: ModelSection) -> ModelShape:
    """Sizes from depth: width 64 per layer, heads of 64 (128 from width 1024), MLP of 8/3 of the width.

    The aspect ratio of 64 and the SwiGLU width follow common practice (Kaplan et al. 2020 find the loss
    flat around it; Shazeer 2020 for 8/3). Any size that the project file gives replaces the derived one.
    """
    assert model.depth is not None
    hidden = model.hidden or 64 * model.depth
    head_dim = model.head_dim or (128 if hidden >= 1024 and hidden % 128 == 0 else 64)
    heads = model.heads or max(1, hidden // head_dim)
    kv_heads = model.kv_heads or heads
    if heads % kv_heads:
        raise InputError(
            f"{heads} query heads cannot share {kv_heads} key heads",
            where="model.kv_heads",
            remedy=f"Choose a divisor of {heads}",
        )
    ffn = model.ffn or -(-8 * hidden // 3 // 64) * 64
    shape = ModelShape(
        architecture=model.architecture,
        layers=model.depth,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=model.vocab,
        tie_embeddings=True,
        rope_theta=model.rope_theta,
        max_positions=model.max_positions,
        experts=model.experts,
        experts_per_token=model.experts_per_token,
        expert_ffn=model.expert_ffn or (ffn if model.experts else 0),
    )
    tied = shape.parameters < _TIE_BELOW_PARAMETERS if model.tie_embeddings is None else model.tie_embeddings
    return shape if tied else ModelShape(**{**shape.__dict__, "tie_embeddings": False})
