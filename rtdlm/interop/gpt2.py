"""GPT-2: learned positions, LayerNorm with biases, GELU by a hyperbolic tangent, one tied table.

Its linear layers keep [inputs, outputs] and make queries, keys and values with one matrix.
"""

from collections.abc import Iterator
from typing import Any

from rtdlm.config import AGIConfig
from rtdlm.interop.family import Json, expect
from rtdlm.interop.slots import Slot
from rtdlm.models.layers import layers_of
from rtdlm.models.norms import LAYER_EPSILON

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


class GPT2:
    """The family."""

    model_type = "gpt2"

    def from_foreign(self, config: Json) -> dict[str, Any]:
        """Overrides of `AGIConfig`."""
        activation = expect(config, "activation_function", *ACTIVATIONS, default="gelu_new")
        expect(config, "scale_attn_weights", True, default=True)
        expect(config, "scale_attn_by_inverse_layer_idx", False, default=False)
        expect(config, "add_cross_attention", False, default=False)
        return {
            "vocab_size": config["vocab_size"],
            "max_seq_len": config["n_positions"],
            "d_model": config["n_embd"],
            "num_layers": config["n_layer"],
            "num_heads": config["n_head"],
            "num_kv_heads": None,
            "attention_type": "mha",
            "d_ff": config.get("n_inner") or 4 * config["n_embd"],
            "feedforward": ACTIVATIONS[activation],
            "norm": "layer",
            "norm_epsilon": config.get("layer_norm_epsilon", LAYER_EPSILON),
            "biases": "all",
            "qk_norm": False,
            "position_encoding": "learned",
            "tie_embeddings": config.get("tie_word_embeddings", True),
        }

    def to_foreign(self, config: AGIConfig) -> dict[str, Any] | None:
        """config.json, or None."""
        names = {"gelu_tanh": "gelu_new", "gelu": "gelu"}
        form = (
            config.attention_type == "mha",
            config.feedforward in names,
            config.norm == "layer",
            not config.norm_outputs,
            config.biases == "all",
            not config.qk_norm,
            config.position_encoding == "learned",
            config.embedding_scale is None,
            config.logit_soft_cap is None,
            config.attention == type(config.attention)(),
        )
        if not all(form):
            return None
        return {
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": config.vocab_size,
            "n_positions": config.max_seq_len,
            "n_embd": config.d_model,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.d_ff,
            "activation_function": names[config.feedforward],
            "layer_norm_epsilon": (
                LAYER_EPSILON if config.norm_epsilon is None else config.norm_epsilon
            ),
            "tie_word_embeddings": config.tie_embeddings,
        }

    def slots(self, config: AGIConfig) -> Iterator[Slot]:
        """All tensors."""
        yield Slot("transformer.wte.weight", "decoder", "embedding", inputs=1)
        yield Slot("transformer.wpe.weight", "decoder", "position", inputs=1)
        if not config.tie_embeddings:
            yield Slot("lm_head.weight", "decoder", "output", inputs=1)
        yield from _norm("transformer.ln_f", "decoder/final_norm", ())
        for layer in layers_of(config):
            theirs, ours, index = f"transformer.h.{layer.number}", layer.module, (layer.turn,)
            yield from _norm(f"{theirs}.ln_1", f"{ours}/attention_norm", index)
            yield from _norm(f"{theirs}.ln_2", f"{ours}/feedforward_norm", index)
            for place, name in enumerate(("query", "key", "value")):
                yield from _linear(
                    f"{theirs}.attn.c_attn", f"{ours}/attention/{name}", index, part=(place, 3)
                )
            yield from _linear(f"{theirs}.attn.c_proj", f"{ours}/attention/output", index, inputs=2)
            yield from _linear(f"{theirs}.mlp.c_fc", f"{ours}/feedforward/up", index)
            yield from _linear(f"{theirs}.mlp.c_proj", f"{ours}/feedforward/down", index)


def _norm(theirs: str, ours: str, index: tuple[int, ...]) -> Iterator[Slot]:
    yield Slot(f"{theirs}.weight", ours, "scale", index)
    yield Slot(f"{theirs}.bias", ours, "bias", index)


def _linear(
    theirs: str,
    ours: str,
    index: tuple[int, ...],
    *,
    inputs: int = 1,
    part: tuple[int, int] | None = None,
) -> Iterator[Slot]:
    yield Slot(f"{theirs}.weight", ours, "w", index, inputs, part=part)
    yield Slot(f"{theirs}.bias", ours, "b", index, part=part)
