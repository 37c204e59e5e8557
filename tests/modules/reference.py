"""Slow, obvious NumPy versions of the modules, written from the papers."""

from math import erf

import numpy as np

Array = np.ndarray


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def rms_norm(x: Array, scale: Array, epsilon: float = 1e-6) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def layer_norm(x: Array, scale: Array, epsilon: float = 1e-5) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale


NORMS = {"rms": rms_norm, "layer": layer_norm}


def short_conv(x_TC: Array, kernel_WC: Array, segments: Array) -> Array:
    """Token by token and kernel by kernel, within the document."""
    y = x_TC.copy()
    for t in range(len(x_TC)):
        for back in range(len(kernel_WC)):
            if t >= back and segments[t - back] == segments[t]:
                y[t] += kernel_WC[back] * x_TC[t - back]
    return y


def ngram_row(tokens: list[int], vocab_size: int, buckets: int) -> int:
    """Row of one sequence, newest token first; 0 is "before the document", an id counts from 1."""
    if (vocab_size + 1) ** len(tokens) <= buckets:
        return int(np.polyval(tokens, vocab_size + 1))
    number = 0
    for token in tokens:
        number = (number * 2_654_435_761 + token) % 2**32
    number = (number ^ (number >> 16)) * 0x85EBCA6B % 2**32
    number = (number ^ (number >> 13)) * 0xC2B2AE35 % 2**32
    return (number ^ (number >> 16)) % buckets


def ngram_rows(
    ids_T: Array, segments: Array, orders: tuple[int, ...], vocab_size: int, buckets: int
) -> Array:
    """[T, N] rows into the tables of all orders, one after the other."""
    rows = np.zeros((len(ids_T), len(orders)), int)
    for t in range(len(ids_T)):
        for place, order in enumerate(orders):
            tokens = [
                int(ids_T[t - back]) + 1 if t >= back and segments[t - back] == segments[t] else 0
                for back in range(order)
            ]
            rows[t, place] = place * buckets + ngram_row(tokens, vocab_size, buckets)
    return rows


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
    first: Array | None = None,
    embedding: Array | None = None,
    alibi: bool = False,
) -> tuple[Array, Array]:
    """Grouped-query attention of one row, head by head and query by query.

    With `alibi`, heads, a power of two, lower far scores.

    `weights` has query [D, H, E], key and value [D, K, E], output [H, E, D] and, for QK-norm,
    query_norm and key_norm [E]; for convolutions queries_conv, keys_conv and values_conv; for
    mixed values value_mix, which are then mixed with `first` and `embedding` [T, K, E] if given.
    Also returns the values before they are mixed.
    """
    projected = {}
    for name, place in (("query", "queries"), ("key", "keys"), ("value", "values")):
        feature = np.einsum("td,dhe->the", x_TD, weights[name])
        if f"{place}_conv" in weights:
            feature = short_conv(feature, weights[f"{place}_conv"], segments)
        projected[name] = feature
    own = value_TKE = projected["value"]
    if "value_mix" in weights:
        parts = [part for part in (own, first, embedding) if part is not None]
        value_TKE = sum(w * part for w, part in zip(weights["value_mix"], parts, strict=True))
    length, heads = len(x_TD), weights["query"].shape[1]
    group = heads // weights["key"].shape[1]
    out = np.zeros_like(x_TD)

    def prepared(name: str, t: int, head: int) -> Array:
        feature = projected[name][t, head]
        if f"{name}_norm" in weights:
            feature = rms_norm(feature, weights[f"{name}_norm"])
        return feature if base is None else rotate(feature, positions[t], base)

    for t in range(length):
        readable = [s for s in range(t + 1) if segments[s] == segments[t]]
        for head in range(heads):
            query = prepared("query", t, head)
            scores = [query @ prepared("key", s, head // group) for s in readable]
            scores = np.array(scores) / np.sqrt(len(query))
            if alibi:
                scores -= 2 ** (-8 * (head + 1) / heads) * (positions[t] - positions[readable])
            p = softmax(scores)
            values = np.stack([value_TKE[s, head // group] for s in readable])
            out[t] += (p @ values) @ weights["output"][head]
    return out, own


def swiglu(x: Array, gate: Array, up: Array, down: Array) -> Array:
    a = x @ gate
    return (a / (1 + np.exp(-a)) * (x @ up)) @ down


def relu_squared(x: Array, up: Array, down: Array) -> Array:
    return np.maximum(x @ up, 0) ** 2 @ down


def gelu(x: Array, up: Array, down: Array) -> Array:
    a = x @ up
    return (a * (1 + np.vectorize(erf)(a / np.sqrt(2))) / 2) @ down


FEEDFORWARDS = {"swiglu": swiglu, "relu2": relu_squared, "gelu": gelu}


def experts(
    x_TD: Array,
    weights: dict[str, Array],
    *,
    real: Array,
    top_k: int,
    capacity: int,
    sigmoid: bool = False,
    temperature: float = 1.0,
) -> Array:
    """Sparse experts over one row, token by token and choice by choice.

    `weights` has router [D, E], gate and up [E, D, F] and down [E, F, D], and may have bias [E],
    which chooses. Every expert serves the first `capacity` choices that fall on it; a token that
    finds no expert free gets zeros.
    """
    served = np.zeros(weights["router"].shape[1], int)
    out = np.zeros_like(x_TD)
    for t in range(len(x_TD)):
        if not real[t]:
            continue
        logits = x_TD[t] @ weights["router"] / temperature
        p = 1 / (1 + np.exp(-logits)) if sigmoid else softmax(logits)
        chosen = np.argsort(-p - weights.get("bias", 0.0), kind="stable")[:top_k]
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
    alibi: bool = False,
    cap: float | None = None,
    top_k: int = 0,
    capacity: int = 0,
    norm: str = "rms",
    feedforward: str = "swiglu",
    value_residual: bool = False,
    orders: tuple[int, ...] = (),
    buckets: int = 0,
) -> Array:
    """Logits [T, V] of one row from the model's own parameters, layer by layer.

    What has parameters of its own is on where these are.
    """
    tables, normalised = params["decoder"], NORMS[norm]
    x = embedding(params, ids_T, segments, positions, norm, orders, buckets)
    start, first = x, None
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

        def entering(name: str, x: Array, one: dict[str, Array] = one) -> Array:
            normed = normalised(x, one[f"{name}_norm"])
            kernel = one.get(f"{name}_conv")
            return normed if kernel is None else short_conv(normed, kernel, segments)

        if "residual_mix" in one:
            x = one["residual_mix"][0] * x + one["residual_mix"][1] * start
        weights, extra = room("attention"), None
        if "value_embedding" in tables:
            extra = tables["value_embedding"][ids_T].reshape(len(x), *weights["value"].shape[1:])
        kept = dict(segments=segments, positions=positions, base=base, embedding=extra, alibi=alibi)
        if value_residual and first is None:
            plain = {name: w for name, w in weights.items() if name != "value_mix"}
            first = attention(entering("attention", x), plain, **kept)[1]
        x = x + attention(entering("attention", x), weights, first=first, **kept)[0]
        normed = entering("feedforward", x)
        if top_k:
            real, sparse, shared = segments > 0, room("experts"), room("experts/shared")
            x = x + experts(normed, sparse, real=real, top_k=top_k, capacity=capacity)
            if shared:
                x = x + swiglu(normed, **shared)
        else:
            x = x + FEEDFORWARDS[feedforward](normed, **room("feedforward"))
    raw = (
        normalised(x, params["decoder/final_norm"]["scale"])
        @ tables.get("output", tables["embedding"]).T
    )
    return raw if cap is None else cap * np.tanh(raw / cap)


def embedding(
    params: dict[str, dict[str, Array]],
    ids_T: Array,
    segments: Array,
    positions: Array,
    norm: str,
    orders: tuple[int, ...],
    buckets: int,
) -> Array:
    """What enters the first layer [T, D]."""
    tables = params["decoder"]
    x = tables["embedding"][ids_T]
    if "position" in tables:
        x = x + tables["position"][positions]
    if orders:
        rows = ngram_rows(ids_T, segments, orders, len(tables["embedding"]), buckets)
        ngram = params["decoder/ngram"]["table"][rows]
        if "decoder/ngram/projection" in params:
            ngram = np.stack(
                [ngram[:, n] @ w for n, w in enumerate(params["decoder/ngram/projection"]["w"])], 1
            )
        x = x + ngram.sum(1)
    if "decoder/embedding_norm" in params:
        x = NORMS[norm](x, params["decoder/embedding_norm"]["scale"])
    if "decoder/input_conv" in params:
        x = short_conv(x, params["decoder/input_conv"]["kernel"], segments)
    return x


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
