"""Our parameters in the peer's layout. Only copies and transposes: gradients convert alike."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.peer.shape import Shape

BLOCK = "decoder/layers/block"


def to_peer(params: Mapping[str, Mapping[str, Any]], shape: Shape) -> dict[str, np.ndarray]:
    """The peer's `state_dict` names -> arrays."""
    top, final = params["decoder"], params["decoder/final_norm"]
    state = {
        "embedding.weight": np.asarray(top["embedding"]),
        "final_norm.weight": np.asarray(final["scale"]),
    }
    if "position" in top:
        state["position.weight"] = np.asarray(top["position"])
    if "output" in top:
        state["head.weight"] = np.asarray(top["output"])
    for layer in range(shape.num_layers):
        for name, array in _layer(params, layer, shape).items():
            state[f"blocks.{layer}.{name}"] = array
    return state


def _layer(
    params: Mapping[str, Mapping[str, Any]], layer: int, shape: Shape
) -> dict[str, np.ndarray]:
    def matrix(path: str, rows: int) -> np.ndarray:
        """A Linear's weight [out, in]; ours lies [in, out], both maybe split into heads."""
        return np.asarray(params[f"{BLOCK}/{path}"]["w"])[layer].reshape(rows, -1).T

    def scale(path: str) -> np.ndarray:
        return np.asarray(params[f"{BLOCK}/{path}"]["scale"])[layer]

    width, hidden = shape.d_model, shape.d_ff
    heads = ("query", "key", "value")
    found = {
        "attention.qkv.weight": np.concatenate([matrix(f"attention/{n}", width) for n in heads]),
        "attention.output.weight": matrix("attention/output", width),
        "attention_norm.weight": scale("attention_norm"),
        "feedforward_norm.weight": scale("feedforward_norm"),
        "down.weight": matrix("feedforward/down", hidden),
    }
    if shape.architecture == "gpt":
        return {**found, "up.weight": matrix("feedforward/up", width)}
    gated = [matrix(f"feedforward/{name}", width) for name in ("gate", "up")]
    return {
        **found,
        "gate_up.weight": np.concatenate(gated),
        "attention.query_norm.weight": scale("attention/query_norm"),
        "attention.key_norm.weight": scale("attention/key_norm"),
    }
