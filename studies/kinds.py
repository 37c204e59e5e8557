"""`python -m studies kinds`: what each kind of layer is worth on real text, against `gqa`.

A small model of grouped-query attention and dense feed-forward layers, and the same with one thing
exchanged: its attention, its positions, or its feed-forward layers for experts or for layers that
work on a share of the tokens; and with attention inside segments alone, behind which summaries of
chunks stand for the rest of the row. As in `recipe`, all get the same CPU time, and differences are
paired by seed. Rows are short here, so that what is cheap in long ones shows its cost and not its
gain.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from benchmarks.text import DEFAULT_TEXT, read_characters
from rtdlm.evaluation.results import Result
from studies import recipe
from studies.variants import RECIPE, Size, Tree, Variant, merged

DESCRIPTION = "each kind of attention, experts and depths against gqa at equal CPU time"
SEEDS = recipe.SEEDS
PLAIN: Tree = {
    "attention_type": "gqa", "feedforward": "swiglu", "short_conv": 0,
}  # fmt: skip
SIZES = {
    "small": Size(
        {**RECIPE, **PLAIN, "d_model": 128, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2,
         "d_ff": 352, "max_seq_len": 256, "batch_size": 8},
        steps=120,
    ),
    "smoke": Size(
        {**RECIPE, **PLAIN, "d_model": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1,
         "d_ff": 32, "max_seq_len": 32, "batch_size": 4},
        steps=4,
    ),
}  # fmt: skip


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    parser.add_argument(
        "--only", default="", metavar="WORD", help="kinds with this in their name",
    )  # fmt: skip


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return None if flags.smoke or flags.only else "kinds"


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every kind."""
    size = SIZES["smoke" if flags.smoke else "small"]
    read_characters(DEFAULT_TEXT)
    chosen = recipe.named_with(flags.only, kinds(size.config))
    yield from recipe.compared(chosen, size, DEFAULT_TEXT, flags)


def kinds(base: Tree) -> Iterator[Variant]:
    """Everything that is set beside `base`."""
    yield from _attention(base)
    yield from _positions()
    yield from _sparse(base)


def _attention(base: Tree) -> Iterator[Variant]:
    own: Tree = {"num_kv_heads": None}
    window = base["max_seq_len"] // 4
    sliding: Tree = {"attention_type": "sliding", "attention": {"window": window}}
    yield Variant("attention: mha", {"attention_type": "mha", **own})
    yield Variant("attention: mqa", {"attention_type": "mqa", **own})
    yield Variant(f"attention: sliding, window {window}", sliding)
    mixed = merged(sliding, {"attention": {"global_every": 2}})
    yield Variant(f"attention: sliding, window {window}, every 2nd layer global", mixed)
    sinks = merged(sliding, {"attention": {"sinks": 4}})
    yield Variant(f"attention: sliding, window {window}, 4 sinks", sinks)
    for form, chosen in (("native", 4), ("topk", 16)):
        parts: Tree = {"window": window // 2, "sparse_form": form, "chosen": chosen}
        if form == "native":
            parts = {**parts, "block": window // 4}
        change = {"attention_type": "sparse", "attention": parts}
        yield Variant(f"attention: sparse, {form}, window {window // 2}, {chosen} chosen", change)
    yield Variant("attention: spiking", {"attention_type": "spiking"})
    yield Variant("attention: linear", {"attention_type": "linear"})
    delta: Tree = {"attention_type": "delta", **own}
    yield Variant("attention: delta", delta)
    published: Tree = {
        "position_encoding": "none", "short_conv": 4,
        "short_conv_places": ("queries", "keys", "values"),
    }  # fmt: skip
    yield Variant("attention: delta as published", {**delta, **published})
    yield Variant("attention: gqa with delta's convolutions", published)
    chunk, segment = window // 8, {"segment": window}
    summaries: Tree = {**segment, "summary_chunk": chunk, "summary_slots": 4 * window // chunk}
    yield Variant(f"segments of {window}, nothing behind them", {"memory": segment})
    name = f"segments of {window}, chunks of {chunk} in summaries"
    yield Variant(name, {"memory": summaries})


def _positions() -> Iterator[Variant]:
    for name in ("learned", "alibi", "none"):
        yield Variant(f"positions: {name}", {"position_encoding": name})


def _sparse(base: Tree) -> Iterator[Variant]:
    """Experts of half the width, two for each token, so that a token meets as many features."""
    experts: Tree = {"num_experts": 8, "top_k": 2}
    narrow: Tree = {"d_ff": base["d_ff"] // 2}
    yield Variant("experts: 8, top 2", {**narrow, "experts": experts})
    full: Tree = {**experts, "dispatch": "dropless"}
    yield Variant("experts: 8, top 2, dropless", {**narrow, "experts": full})
    even: Tree = {**full, "scores": "sigmoid", "bias_rate": 0.001, "shared": 1, "top_k": 1}
    name = "experts: 8, top 1 and a shared one, sigmoid, balanced by a bias"
    yield Variant(name, {**narrow, "experts": even})
    for capacity in (0.5, 0.125):
        name = f"depths: {capacity:g} of the tokens in every 2nd layer"
        yield Variant(name, {"depths": {"capacity": capacity}})
