"""Llama and what grew out of it: Mistral, Mixtral, Qwen2, Qwen3, Gemma 2.

They share the names of their tensors and differ in a few fields; what none of these fields can say
is refused by name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rtdlm.config import AGIConfig, UserError
from rtdlm.interop.family import Json, expect
from rtdlm.interop.slots import Slot
from rtdlm.models.layers import layers_of
from rtdlm.models.norms import RMS_EPSILON

ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class LlamaLike:
    """One family; the fields say how it differs from Llama."""

    model_type: str
    architecture: str
    biases: str = "none"
    qk_norm: bool = False
    window: bool = False
    """Has `sliding_window`, for all layers or alternating."""
    experts: bool = False
    gemma: bool = False

    def from_foreign(self, config: Json) -> dict[str, Any]:
        """Overrides of `AGIConfig`."""
        heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads")
        kv_heads = heads if kv_heads is None else kv_heads
        expect(config, "attention_bias", self.biases == "qkv" or False, None, False)
        expect(config, "mlp_bias", None, False)
        if self.gemma:
            activation = config.get("hidden_activation") or config.get("hidden_act")
            expect({"hidden_activation": activation}, "hidden_activation", "gelu_pytorch_tanh")
        else:
            expect(config, "hidden_act", "silu", default="silu")
        overrides: dict[str, Any] = {
            "vocab_size": config["vocab_size"],
            "max_seq_len": config["max_position_embeddings"],
            "d_model": config["hidden_size"],
            "num_layers": config["num_hidden_layers"],
            "num_heads": heads,
            "d_ff": config["intermediate_size"],
            "feedforward": "geglu" if self.gemma else "swiglu",
            "norm": "rms_centred" if self.gemma else "rms",
            "norm_epsilon": config.get("rms_norm_eps", RMS_EPSILON),
            "norm_outputs": self.gemma,
            "biases": self.biases,
            "qk_norm": self.qk_norm,
            "position_encoding": "rope",
            "tie_embeddings": config.get("tie_word_embeddings", self.gemma),
            **_rope(config),
        }
        attention: dict[str, Any] = {}
        if config.get("head_dim") not in (None, config["hidden_size"] / heads):
            attention["head_dim"] = config["head_dim"]
        if self.gemma:
            overrides["embedding_scale"] = config["hidden_size"] ** 0.5
            overrides["logit_soft_cap"] = config.get("final_logit_softcapping")
            attention["soft_cap"] = config.get("attn_logit_softcapping")
            attention["scale"] = config["query_pre_attn_scalar"] ** -0.5
        overrides |= self._attention(config, heads, kv_heads, attention)
        if attention:
            overrides["attention"] = attention
        if self.experts:
            count, chosen = config["num_local_experts"], config["num_experts_per_tok"]
            if chosen == 1:
                raise UserError(
                    "the checkpoint's num_experts_per_tok=1 cannot be expressed by AGIConfig, in "
                    "which the share of a token's only expert is its probability and not one"
                )
            # Room for every token in every expert: the family drops none.
            overrides["experts"] = {
                "num_experts": count, "top_k": chosen, "capacity_factor": count / chosen,
            }  # fmt: skip
        return overrides

    def _attention(
        self, config: Json, heads: int, kv_heads: int, attention: dict[str, Any]
    ) -> dict[str, Any]:
        """The type of attention; adds what it needs to the section `attention`."""
        window = config.get("sliding_window")
        # Qwen names a window that it does not use.
        if config.get("use_sliding_window", self.window) is False:
            window = None
        if window is not None and not self.window:
            raise UserError(
                f"the checkpoint's sliding_window={window} in a {self.model_type} cannot be "
                "expressed: layers of it are dense up to max_window_layers and have a window from "
                "there on"
            )
        if window is not None:
            kinds = config.get("layer_types")
            attention["window"] = window
            if self.gemma or kinds is not None:
                attention["global_every"] = _global_every(config, kinds)
            return {"attention_type": "sliding", "num_kv_heads": kv_heads}
        if kv_heads in (1, heads):
            return {"attention_type": "mha" if kv_heads == heads else "mqa", "num_kv_heads": None}
        return {"attention_type": "gqa", "num_kv_heads": kv_heads}

    def to_foreign(self, config: AGIConfig) -> dict[str, Any] | None:
        """config.json, or None."""
        if not self._is_ours(config):
            return None
        tree: dict[str, Any] = {
            "architectures": [self.architecture],
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_seq_len,
            "hidden_size": config.d_model,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "intermediate_size": config.d_ff,
            "rms_norm_eps": RMS_EPSILON if config.norm_epsilon is None else config.norm_epsilon,
            "tie_word_embeddings": config.tie_embeddings,
            "rope_theta": ROPE_BASE if config.rope_base is None else config.rope_base,
            "rope_scaling": _rope_scaling(config),
            "hidden_act": "gelu_pytorch_tanh" if self.gemma else "silu",
            "attention_bias": self.biases == "qkv",
        }
        if self.gemma:
            assert config.attention.scale is not None
            tree |= {
                "hidden_activation": "gelu_pytorch_tanh",
                "attention_bias": False,
                "final_logit_softcapping": config.logit_soft_cap,
                "attn_logit_softcapping": config.attention.soft_cap,
                "query_pre_attn_scalar": round(config.attention.scale**-2),
            }
        if self.window:
            slides = config.attention_type == "sliding"
            tree["sliding_window"] = config.attention.reach if slides else None
            if self.gemma:
                kinds = {"sliding": "sliding_attention", "gqa": "full_attention"}
                tree["layer_types"] = [kinds[layer.plan.attention] for layer in layers_of(config)]
        if self.experts:
            tree["num_local_experts"] = config.experts.num_experts
            tree["num_experts_per_tok"] = config.experts.choices
        return tree

    def _is_ours(self, config: AGIConfig) -> bool:
        slides = config.attention_type == "sliding"
        alternates = config.attention.global_every
        form = (
            config.feedforward == ("geglu" if self.gemma else "swiglu"),
            config.norm == ("rms_centred" if self.gemma else "rms"),
            config.norm_outputs == self.gemma,
            config.biases == self.biases,
            config.qk_norm == self.qk_norm,
            config.position_encoding == "rope",
            bool(config.experts.num_experts) == self.experts,
            slides == self.gemma or (self.window and not self.gemma),
            alternates == 2 if self.gemma else alternates is None,
            (config.embedding_scale is not None) == self.gemma,
            (config.attention.scale is not None) == self.gemma,
            self.gemma or config.logit_soft_cap is None,
            self.gemma or config.attention.soft_cap is None,
            not self.gemma or config.embedding_scale == config.d_model**0.5,
            not self.gemma or _is_root_of_whole(config.attention.scale),
        )
        return all(form)

    def slots(self, config: AGIConfig) -> Iterator[Slot]:
        """All tensors."""
        yield Slot("model.embed_tokens.weight", "decoder", "embedding", inputs=1)
        if not config.tie_embeddings:
            yield Slot("lm_head.weight", "decoder", "output", inputs=1)
        yield Slot("model.norm.weight", "decoder/final_norm", "scale")
        for layer in layers_of(config):
            theirs, index = f"model.layers.{layer.number}", (layer.turn,)
            for name, ours in self._norms():
                yield Slot(f"{theirs}.{name}.weight", f"{layer.module}/{ours}", "scale", index)
            yield from _attention_slots(f"{theirs}.self_attn", f"{layer.module}/attention", index)
            if self.biases == "qkv":
                for short, ours in (("q", "query"), ("k", "key"), ("v", "value")):
                    yield Slot(
                        f"{theirs}.self_attn.{short}_proj.bias",
                        f"{layer.module}/attention/{ours}", "b", index,
                    )  # fmt: skip
            if layer.plan.experts:
                yield from _expert_slots(theirs, layer.module, index, config.experts.num_experts)
            else:
                yield from _matrices(
                    f"{theirs}.mlp.", f"{layer.module}/feedforward", index,
                    ("gate_proj", "up_proj", "down_proj"),
                )  # fmt: skip

    def _norms(self) -> Iterator[tuple[str, str]]:
        """Names of a layer's norms, theirs and ours."""
        yield "input_layernorm", "attention_norm"
        if self.gemma:
            yield "post_attention_layernorm", "attention_output_norm"
            yield "pre_feedforward_layernorm", "feedforward_norm"
            yield "post_feedforward_layernorm", "feedforward_output_norm"
        else:
            yield "post_attention_layernorm", "feedforward_norm"
        if self.qk_norm:
            yield "self_attn.q_norm", "attention/query_norm"
            yield "self_attn.k_norm", "attention/key_norm"


LLAMA_LIKE = (
    LlamaLike("llama", "LlamaForCausalLM"),
    LlamaLike("mistral", "MistralForCausalLM", window=True),
    LlamaLike("mixtral", "MixtralForCausalLM", window=True, experts=True),
    LlamaLike("qwen2", "Qwen2ForCausalLM", biases="qkv"),
    LlamaLike("qwen3", "Qwen3ForCausalLM", qk_norm=True),
    LlamaLike("gemma2", "Gemma2ForCausalLM", window=True, gemma=True),
)


def _attention_slots(theirs: str, ours: str, index: tuple[int, ...]) -> Iterator[Slot]:
    for short, name, inputs in (
        ("q", "query", 1), ("k", "key", 1), ("v", "value", 1), ("o", "output", 2),
    ):  # fmt: skip
        yield Slot(
            f"{theirs}.{short}_proj.weight", f"{ours}/{name}", "w", index, inputs, turned=True
        )


def _matrices(
    theirs: str, ours: str, index: tuple[int, ...], names: tuple[str, str, str]
) -> Iterator[Slot]:
    """Gate, up and down of a gated layer."""
    for name, own in zip(names, ("gate", "up", "down"), strict=True):
        yield Slot(f"{theirs}{name}.weight", f"{ours}/{own}", "w", index, 1, turned=True)


def _expert_slots(theirs: str, ours: str, index: tuple[int, ...], count: int) -> Iterator[Slot]:
    theirs, ours = f"{theirs}.block_sparse_moe", f"{ours}/experts"
    yield Slot(f"{theirs}.gate.weight", f"{ours}/router", "w", index, 1, turned=True)
    for expert in range(count):
        names = ("w1", "w3", "w2")
        yield from _matrices(f"{theirs}.experts.{expert}.", ours, (*index, expert), names)


def _rope(config: Json) -> dict[str, Any]:
    """Base and scaling, from either of the two places where configs keep them."""
    given = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    base = given.pop("rope_theta", None) or config.get("rope_theta") or ROPE_BASE
    kind = given.pop("rope_type", None) or given.pop("type", None) or "default"
    overrides: dict[str, Any] = {"rope_base": float(base)}
    if kind == "default":
        return overrides
    fields = {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "low_freq_factor": "low_frequency",
        "high_freq_factor": "high_frequency",
        "beta_fast": "fast_turns",
        "beta_slow": "slow_turns",
        "attention_factor": "attention_factor",
    }
    unknown = sorted(given.keys() - fields.keys())
    if kind not in ("linear", "yarn", "llama3") or unknown:
        what = f"rope_type={kind!r}" + (f" with {', '.join(unknown)}" if unknown else "")
        raise UserError(
            f"the checkpoint's {what} cannot be expressed by AGIConfig, which knows 'linear', "
            "'yarn' and 'llama3'"
        )
    scaling: dict[str, Any] = {fields[key]: value for key, value in given.items() if value}
    for name in ("factor", "low_frequency", "high_frequency", "fast_turns", "slow_turns"):
        if name in scaling:
            scaling[name] = float(scaling[name])
    if kind == "yarn":
        scaling.setdefault("original_length", config["max_position_embeddings"])
    if kind == "linear":
        scaling.pop("original_length", None)
    return overrides | {"rope": {"scaling": kind, **scaling}}


def _rope_scaling(config: AGIConfig) -> dict[str, Any] | None:
    rope = config.rope
    if rope.scaling == "none":
        return None
    if rope.scaling == "ntk":
        raise UserError(
            "rope.scaling='ntk' has no static form in Hugging Face's configs; set rope_base to the "
            "raised base instead"
        )
    tree = {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling in ("yarn", "llama3"):
        tree["original_max_position_embeddings"] = rope.original_length
    if rope.scaling == "llama3":
        tree["low_freq_factor"] = rope.value("low_frequency")
        tree["high_freq_factor"] = rope.value("high_frequency")
    if rope.scaling == "yarn":
        given = {
            "beta_fast": rope.fast_turns,
            "beta_slow": rope.slow_turns,
            "attention_factor": rope.attention_factor,
        }
        tree |= {name: value for name, value in given.items() if value is not None}
    return tree


def _is_root_of_whole(scale: float | None) -> bool:
    """Whether the scale is n^-0.5 for a whole number n, which is all that Gemma can say."""
    return scale is not None and round(scale**-2) ** -0.5 == scale


def _global_every(config: Json, kinds: Sequence[str] | None) -> int | None:
    """Which layers are global, as `attention.global_every` says it."""
    layers = config["num_hidden_layers"]
    if kinds is None:  # Gemma 2's own default
        kinds = [
            "full_attention" if number % 2 else "sliding_attention" for number in range(layers)
        ]
    places = [number + 1 for number, kind in enumerate(kinds) if kind == "full_attention"]
    if not places:
        return None
    every = places[0]
    if every < 2 or places != list(range(every, layers + 1, every)):
        raise UserError(
            f"the checkpoint's global layers {places} cannot be expressed by AGIConfig, which "
            "knows every n-th layer (attention.global_every)"
        )
    return every
