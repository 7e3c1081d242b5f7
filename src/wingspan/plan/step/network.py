"""What the planner counts of a network: every matrix multiplication, parameter and saved byte of a block.

Wider than `ModelShape`, which holds what wingspan trains: published runs, against which the planner is
tested, also have plain MLPs, shared experts and leading dense layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from wingspan.model.shape import ModelShape


@dataclass(frozen=True)
class Network:
    """Sizes of a decoder. `ffn` is the inner width of a dense MLP, `expert_ffn` of one expert.

    Multi-latent attention (DeepSeek-V2, arXiv 2405.04434) has a `kv_rank`: keys and values are made from a
    latent of that width, queries from one of `q_rank`. Then `head_dim` is that of queries and keys, of which
    `rope_dim` are rotary and shared by all heads, and `value_head_dim` that of values.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool = True
    tied: bool = False
    qk_norm: bool = False
    experts: int = 0
    experts_per_token: int = 0
    shared_experts: int = 0
    expert_ffn: int = 0
    dense_layers: int = 0  # leading layers without experts
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    value_head_dim: int = 0

    @property
    def value_dim(self) -> int:
        """Width of a head's values."""
        return self.value_head_dim or self.head_dim

    @property
    def mlp_matrices(self) -> int:
        """Matrices of one MLP: gate, up and down, or up and down."""
        return 3 if self.gated else 2

    @property
    def attention_parameters(self) -> int:
        """Matrix parameters of one attention block."""
        queries, values = self.heads * self.head_dim, self.heads * self.value_dim
        if not self.kv_rank:
            keys = self.kv_heads * (self.head_dim + self.value_dim)
            return self.hidden * (queries + keys + values)
        made_of_latents = self.q_rank * queries + self.kv_rank * self.heads * (
            self.head_dim - self.rope_dim + self.value_dim
        )
        return self.hidden * (self.q_rank + self.kv_rank + self.rope_dim + values) + made_of_latents

    @property
    def attention_values(self) -> int:
        """Values of queries, keys, values, attention's output, and of latents before and after their norms."""
        latents = 2 * (self.q_rank + self.kv_rank)
        return (self.heads + self.kv_heads) * (self.head_dim + self.value_dim) + latents

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    def _mlp_parameters(self, inner: float) -> float:
        return self.mlp_matrices * self.hidden * inner

    @property
    def _dense_block(self) -> float:
        return self.attention_parameters + self._mlp_parameters(self.ffn)

    def _moe_block(self, experts: int) -> float:
        used = (experts + self.shared_experts) * self.expert_ffn
        return self.attention_parameters + self._mlp_parameters(used) + self.hidden * self.experts

    @property
    def dense_parameters(self) -> float:
        """Parameters of all blocks without their routed experts: what expert parallelism does not divide."""
        blocks = (self.layers - self.moe_layers) * self._dense_block + self.moe_layers * self._moe_block(0)
        return blocks + self.layers * self._norm_parameters

    @property
    def expert_parameters(self) -> float:
        """Parameters of all routed experts of all blocks."""
        return self.moe_layers * self._mlp_parameters(self.experts * self.expert_ffn)

    @property
    def _norm_parameters(self) -> int:
        return 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0) + self.q_rank + self.kv_rank

    @property
    def embedding_parameters(self) -> int:
        """Parameters of one vocabulary matrix."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> float:
        """All parameters; biases of GPT-style blocks (below 0.1%) are left out."""
        matrices = 1 if self.tied else 2
        return self.dense_parameters + self.expert_parameters + matrices * self.embedding_parameters + self.hidden

    @property
    def matmul_parameters(self) -> float:
        """Matrix parameters that one token is multiplied with, output head included."""
        dense = (self.layers - self.moe_layers) * self._dense_block
        return dense + self.moe_layers * self._moe_block(self.experts_per_token) + self.embedding_parameters

    def training_flops_per_token(self, sequence: int) -> float:
        """6 P_matmul + 3 L s a (d_qk + d_v): forward and backward, causal half of attention (PaLM, appendix B)."""
        attention = 3 * self.layers * sequence * self.heads * (self.head_dim + self.value_dim)
        return 6 * self.matmul_parameters + attention


def network_of(shape: ModelShape) -> Network:
    """The network that wingspan builds from a shape."""
    return Network(
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        ffn=shape.ffn,
        vocab=shape.vocab,
        tied=shape.tie_embeddings,
        qk_norm=shape.qk_norm,
        experts=shape.experts,
        experts_per_token=shape.experts_per_token,
        expert_ffn=shape.expert_ffn,
    )
