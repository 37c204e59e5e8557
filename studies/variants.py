"""The base recipe at two sizes, the `tiny` preset as it was and is, and what is changed in them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rtdlm.config.presets import PRESETS

Tree = Mapping[str, Any]
"""Fields of `AGIConfig`, sections as mappings."""


class Size(NamedTuple):
    """The base at one size and how long it is trained."""

    config: Tree
    steps: int
    """Of the base; what they cost in CPU time is what every variant may spend."""
    words: bool = False
    """Tokens are those of a byte-pair encoding of the base's vocabulary, not characters."""
    changes: str = "recipe"
    """What is looked at, a key of `CHANGES`."""


class Variant(NamedTuple):
    """One change of the base."""

    name: str
    """"what: how"."""
    change: Tree
    widely: bool = False
    """Looked at beyond the small size and the first corpus too."""


RECIPE: Tree = {
    "attention_type": "mha",
    "feedforward": "relu2",
    "zero_init_outputs": True,
    "short_conv": 4,
    "optimizer": {
        "name": "muon",
        "learning_rate": 0.03,
        "adam_learning_rate": 0.04,
        "schedule": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
    },
}
"""The base: Muon for matrices and Adam for tables, QK-norm, RMSNorm, zero-initialised outputs,
ReLU-squared, short convolutions before attention and feed-forward, untied tables, linear decay."""

BEFORE: Tree = {"zero_init_outputs": False, "short_conv": 0, "value_residual": False}
"""The presets without what this study put into them, beside Adam's rate."""
BOTH: Tree = {"short_conv": 4, "value_residual": True}
"""What the presets have that no other program reads."""

SIZES = {
    "small": Size(
        {**RECIPE, "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256,
         "max_seq_len": 64, "batch_size": 16},
        steps=150,
    ),
    "medium": Size(
        {**RECIPE, "d_model": 128, "num_layers": 4, "num_heads": 4, "d_ff": 512,
         "max_seq_len": 128, "batch_size": 16},
        steps=150,
    ),
    "tiny": Size(
        {**PRESETS["tiny"], **BEFORE, "optimizer": {"warmup_steps": 10, "adam_learning_rate": 0.01},
         "precision": {"compute": "bfloat16"}},
        steps=80,
        words=True,
        changes="preset before",
    ),
    "preset": Size(
        {**PRESETS["tiny"], **BOTH, "optimizer": {"warmup_steps": 20},
         "precision": {"compute": "bfloat16"}},
        steps=240,
        words=True,
        changes="preset",
    ),
    "smoke": Size(
        {**RECIPE, "d_model": 16, "num_layers": 1, "num_heads": 1, "d_ff": 32,
         "max_seq_len": 64, "batch_size": 4},
        steps=4,
    ),
}  # fmt: skip
ADAM: Tree = {"name": "adamw", "adam_learning_rate": None}
ADAM_RATES = (0.005, 0.01, 0.02, 0.04)
TABLES = r"decoder/(embedding|output)$"


def variants(size: Size) -> Iterator[Variant]:
    """All changes of the base at one size; the most important first."""
    return CHANGES[size.changes](size.config, size.steps)


def _of_preset(base: Tree, steps: int) -> Iterator[Variant]:
    """What the preset's ingredients are worth together, and what may join them."""
    yield Variant(
        "short convolutions and value residual: none", {"short_conv": 0, "value_residual": False}
    )
    yield Variant("short convolutions: none", {"short_conv": 0})
    yield Variant("value residual: off", {"value_residual": False})
    yield Variant("QK-norm: none", {"qk_norm": False})
    wide = base["d_ff"] * 3 // 2
    relu2 = {"feedforward": "relu2", "d_ff": wide}
    yield Variant(f"feed-forward: ReLU-squared, width {wide}", relu2)
    length, until = base["max_seq_len"] // 4, round(0.4 * steps)
    grow = {"warmup": {"seq_len": length, "seq_len_steps": until}}
    yield Variant(f"rows of {length} at first: whole after {until} steps", grow)


def _of_preset_before(base: Tree, steps: int) -> Iterator[Variant]:
    """What might make a better preset; much of it is in it since."""
    del steps
    yield Variant("short convolutions: on", {"short_conv": 4})
    yield Variant("zero-initialised outputs: on", {"zero_init_outputs": True})
    yield Variant("schedule: linear", {"optimizer": {"schedule": "linear"}})
    yield Variant("Muon: Adam's rate 0.02", {"optimizer": {"adam_learning_rate": 0.02}})
    muon = {"learning_rate": 0.04, "adam_learning_rate": 0.01}
    yield Variant("Muon: rate 0.04", {"optimizer": muon})
    for rate in (0.002, 0.005):
        adam = {"name": "adamw", "learning_rate": rate, "adam_learning_rate": None}
        yield Variant(f"Adam for all: rate {rate:g}", {"optimizer": adam})
    wide = base["d_ff"] * 3 // 2
    yield Variant(
        f"feed-forward: ReLU-squared, width {wide}", {"feedforward": "relu2", "d_ff": wide}
    )
    yield Variant("value residual: on", {"value_residual": True})
    tables = {"orders": (2, 3), "buckets": 32768}
    yield Variant("n-gram tables: orders 2 and 3", {"ngram": tables})


def _of_recipe(base: Tree, steps: int) -> Iterator[Variant]:
    yield from _short_convolutions()
    yield from _layers(base)
    yield from _rates(base)
    yield from _schedules(base, steps)
    yield from _shape_of_a_step(base)


def _short_convolutions() -> Iterator[Variant]:
    yield Variant("short convolutions: none", {"short_conv": 0}, True)
    places: dict[str, tuple[str, ...]] = {
        "input": ("input",),
        "attention": ("attention",),
        "feed-forward": ("feedforward",),
        "attention, feed-forward, values": ("attention", "feedforward", "values"),
        "input, attention, feed-forward": ("input", "attention", "feedforward"),
    }
    for name, where in places.items():
        yield Variant(f"short convolutions: {name}", {"short_conv_places": where})
    yield Variant("short convolutions: width 3", {"short_conv": 3})


def _rates(base: Tree) -> Iterator[Variant]:
    """Optimizers, each over its own rates."""
    tables = base["optimizer"]["adam_learning_rate"]
    for rate in ADAM_RATES:
        rules = {TABLES: tables / rate}
        adam = {**ADAM, "learning_rate": rate, "learning_rate_rules": rules}
        name = f"Adam for all: rate {rate:g}, of tables {tables:g}"
        yield Variant(name, {"optimizer": adam}, 0.005 <= rate <= 0.02)
    yield Variant("Adam for all: rate 0.02", {"optimizer": {**ADAM, "learning_rate": 0.02}})
    own = base["optimizer"]["learning_rate"]
    for rate in (0.02, 0.03, 0.05):
        if rate != own:
            yield Variant(f"Muon: rate {rate:g}", {"optimizer": {"learning_rate": rate}}, True)
    for rate in (0.02, 0.04, 0.06):
        if rate != tables:
            change = {"optimizer": {"adam_learning_rate": rate}}
            yield Variant(f"Muon: Adam's rate {rate:g}", change, True)
    yield Variant("Newton-Schulz: 3 steps", {"optimizer": {"newton_schulz_steps": 3}})
    yield Variant("beta2: 0.99", {"optimizer": {"beta2": 0.99}})
    yield Variant("weight decay: 0.1", {"optimizer": {"weight_decay": 0.1}})
    yield Variant("clipping: none", {"optimizer": {"clip_norm": float("inf")}})


def _layers(base: Tree) -> Iterator[Variant]:
    gated = round(base["d_ff"] * 2 / 3 / 8) * 8
    yield Variant("QK-norm: none", {"qk_norm": False}, True)
    yield Variant("zero-initialised outputs: none", {"zero_init_outputs": False}, True)
    yield Variant(
        f"feed-forward: SwiGLU, width {gated}", {"feedforward": "swiglu", "d_ff": gated}, True
    )
    yield Variant("feed-forward: GELU", {"feedforward": "gelu"})
    for orders in ((2,), (2, 3), (2, 3, 4)):
        named = " and ".join(map(str, orders)) if len(orders) == 2 else ", ".join(map(str, orders))
        change = {"ngram": {"orders": orders, "buckets": 8192}}
        yield Variant(f"n-gram tables: orders {named}", change, len(orders) == 2)
    if base["num_layers"] > 1:
        yield Variant("value residual: on", {"value_residual": True}, True)
    yield Variant("value embeddings: on", {"value_embeddings": True})
    yield Variant("residual gates: on", {"residual_gates": True})
    yield Variant("embedding norm: on", {"embedding_norm": True})
    for cap in (15.0, 30.0):
        yield Variant(f"logit soft cap: {cap:g}", {"logit_soft_cap": cap})
    yield Variant("output table: tied", {"tie_embeddings": True})
    yield Variant("norm: LayerNorm", {"norm": "layer"})
    for std in (0.02, 1.0):
        yield Variant(f"embedding's first spread: {std:g}", {"embedding_std": std})


def _schedules(base: Tree, steps: int) -> Iterator[Variant]:
    shapes: dict[str, Tree] = {
        "wsd, decay 0.4": {"schedule": "wsd", "decay_fraction": 0.4},
        "wsd, decay 0.7": {"schedule": "wsd", "decay_fraction": 0.7},
        "cosine to 0": {"schedule": "cosine", "final_learning_rate": 0.0},
        "cosine to 0.1": {"schedule": "cosine", "final_learning_rate": 0.1},
    }
    for name, change in shapes.items():
        yield Variant(f"schedule: {name}", {"optimizer": change})
    warmup = {"optimizer": {"warmup_steps": max(2, round(0.05 * steps))}}
    yield Variant("warm-up: 5 %", warmup)
    yield from _growing_steps(base, steps)


def _growing_steps(base: Tree, steps: int) -> Iterator[Variant]:
    """Rows or batches that start at a quarter."""
    length, rows = base["max_seq_len"] // 4, base["batch_size"] // 4
    for share in (0.2, 0.4):
        until = round(share * steps)
        grow = {"warmup": {"seq_len": length, "seq_len_steps": until}}
        yield Variant(f"rows of {length} at first: whole after {until} steps", grow, share == 0.4)
        # As many steps of a quarter and a half cost less than half as much.
        grow = {"warmup": {"batch_size": rows, "batch_steps": 2 * until}}
        name = f"batches of {rows} rows at first: whole after {2 * until} steps"
        yield Variant(name, grow, share == 0.4)


def _shape_of_a_step(base: Tree) -> Iterator[Variant]:
    rows, length = base["batch_size"], base["max_seq_len"]
    yield Variant(f"batch: {rows // 2} rows", {"batch_size": rows // 2})
    yield Variant(f"batch: {2 * rows} rows", {"batch_size": 2 * rows})
    half = {"max_seq_len": length // 2, "batch_size": 2 * rows}
    yield Variant(f"batch: {2 * rows} rows of {length // 2}", half)
    yield Variant("precision: bfloat16", {"precision": {"compute": "bfloat16"}}, True)


CHANGES: dict[str, Callable[[Tree, int], Iterator[Variant]]] = {
    "recipe": _of_recipe,
    "preset": _of_preset,
    "preset before": _of_preset_before,
}
"""Of a base that is trained for so many steps."""


def merged(base: Tree, change: Tree) -> dict[str, Any]:
    """`base` with `change` on top, section by section."""
    tree = dict(base)
    for name, value in change.items():
        both = isinstance(value, Mapping) and isinstance(tree.get(name), Mapping)
        tree[name] = merged(tree[name], value) if both else value
    return tree
