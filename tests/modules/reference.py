"""Slow, obvious NumPy versions of the modules, written from the papers."""

import numpy as np

Array = np.ndarray


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def rms_norm(x: Array, scale: Array, epsilon: float = 1e-6) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def rotate(x_E: Array, position: int, base: float) -> Array:
    """One head's features at one position, plane by plane."""
    planes = len(x_E) // 2
    y = np.empty_like(x_E)
    for i in range(planes):
        angle = position * base ** (-2 * i / len(x_E))
        a, b = x_E[i], x_E[i + planes]
        y[i] = a * np.cos(angle) - b * np.sin(angle)
        y[i + planes] = b * np.cos(angle) + a * np.sin(angle)
    return y


def attention(
    x_TD: Array,
    weights: dict[str, Array],
    *,
    segments: Array,
    positions: Array,
    base: float | None,
) -> Array:
    """Grouped-query attention of one row, head by head and query by query.

    `weights` has query [D, H, E], key and value [D, K, E], output [H, E, D] and, for QK-norm,
    query_norm and key_norm [E].
    """
    length, heads = len(x_TD), weights["query"].shape[1]
    group = heads // weights["key"].shape[1]
    out = np.zeros_like(x_TD)

    def prepared(name: str, t: int, head: int) -> Array:
        feature = x_TD[t] @ weights[name][:, head]
        if f"{name}_norm" in weights:
            feature = rms_norm(feature, weights[f"{name}_norm"])
        return feature if base is None else rotate(feature, positions[t], base)

    for t in range(length):
        readable = [s for s in range(t + 1) if segments[s] == segments[t]]
        for head in range(heads):
            query = prepared("query", t, head)
            scores = [query @ prepared("key", s, head // group) for s in readable]
            p = softmax(np.array(scores) / np.sqrt(len(query)))
            values = np.stack([x_TD[s] @ weights["value"][:, head // group] for s in readable])
            out[t] += (p @ values) @ weights["output"][head]
    return out


def swiglu(x: Array, gate: Array, up: Array, down: Array) -> Array:
    a = x @ gate
    return (a / (1 + np.exp(-a)) * (x @ up)) @ down


def experts(
    x_TD: Array,
    weights: dict[str, Array],
    *,
    real: Array,
    top_k: int,
    capacity: int,
) -> Array:
    """Sparse experts over one row, token by token and choice by choice.

    `weights` has router [D, E], gate and up [E, D, F] and down [E, F, D]. Every expert serves the
    first `capacity` choices that fall on it; a token that finds no expert free gets zeros.
    """
    served = np.zeros(weights["router"].shape[1], int)
    out = np.zeros_like(x_TD)
    for t in range(len(x_TD)):
        if not real[t]:
            continue
        p = softmax(x_TD[t] @ weights["router"])
        chosen = np.argsort(-p, kind="stable")[:top_k]
        shares = p[chosen] / p[chosen].sum() if top_k > 1 else p[chosen]
        for expert, share in zip(chosen, shares, strict=True):
            if served[expert] < capacity:
                served[expert] += 1
                one = (weights[name][expert] for name in ("gate", "up", "down"))
                out[t] += share * swiglu(x_TD[t], *one)
    return out


def decoder(
    params: dict[str, dict[str, Array]],
    ids_T: Array,
    *,
    segments: Array,
    positions: Array,
    base: float | None = 10_000.0,
    cap: float | None = None,
    top_k: int = 0,
    capacity: int = 0,
) -> Array:
    """Logits [T, V] of one row from the model's own parameters, layer by layer."""
    tables = params["decoder"]
    x = tables["embedding"][ids_T]
    layers = {
        path.removeprefix("decoder/layers/block/"): next(iter(leaf.values()))
        for path, leaf in params.items()
        if path.startswith("decoder/layers/block/")
    }
    for layer in range(len(layers["attention_norm"])):
        one = {path: stacked[layer] for path, stacked in layers.items()}

        def room(name: str, one: dict[str, Array] = one) -> dict[str, Array]:
            return {
                k.removeprefix(f"{name}/"): v for k, v in one.items() if k.startswith(f"{name}/")
            }

        normed = rms_norm(x, one["attention_norm"])
        x = x + attention(
            normed, room("attention"), segments=segments, positions=positions, base=base
        )
        normed = rms_norm(x, one["feedforward_norm"])
        if top_k:
            real = segments > 0
            x = x + experts(normed, room("experts"), real=real, top_k=top_k, capacity=capacity)
        else:
            x = x + swiglu(normed, **room("feedforward"))
    raw = (
        rms_norm(x, params["decoder/final_norm"]["scale"])
        @ tables.get("output", tables["embedding"]).T
    )
    return raw if cap is None else cap * np.tanh(raw / cap)


def token_statistics(logits_V: Array, label: int) -> dict[str, float]:
    """What the head says of one token, by sorting; a tie with the label counts for the label."""
    p = softmax(logits_V)
    order = sorted(range(len(p)), key=lambda v: (-logits_V[v], v != label))
    rank = order.index(label)
    log_partition = np.log(np.exp(logits_V - logits_V.max()).sum()) + logits_V.max()
    return {
        "nll": -np.log(p[label]),
        "log_partition": log_partition,
        "mean_logit": logits_V.mean(),
        "top1": float(rank < 1),
        "top5": float(rank < 5),
        "entropy": -(p[p > 0] * np.log(p[p > 0])).sum(),
    }
