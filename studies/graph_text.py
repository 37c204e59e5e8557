"""`python -m studies graph_text`: one graph block in a language model, on real text.

The small model of `kinds`, and the same with a learned graph in its second layer: with one, two and
four hops, with attention along its edges, with all earlier tokens as neighbours, and without
halting. As in `recipe`, all get the same CPU time, and differences are paired by seed; a side of
as many parameters, with a wider feed-forward layer for the graph, tells what of a gain is size.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from benchmarks.text import DEFAULT_TEXT, read_characters
from rtdlm.config import AGIConfig
from rtdlm.evaluation.results import Result
from rtdlm.models.cost import count_parameters
from studies import kinds, recipe
from studies.sides import add_only, whole_name
from studies.variants import Tree, Variant

DESCRIPTION = "one graph block in a language model at equal CPU time"
SEEDS = recipe.SEEDS


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "graph_text")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side."""
    size = kinds.SIZES["smoke" if flags.smoke else "small"]
    read_characters(DEFAULT_TEXT)
    chosen = recipe.named_with(flags.only, variants(size.config))
    yield from recipe.compared(chosen, size, DEFAULT_TEXT, flags)


def variants(base: Tree) -> Iterator[Variant]:
    """Everything that is set beside `base`."""
    graph: Tree = {"hops": 2, "every": base["num_layers"] // 2 + 1}
    for hops in (1, 2, 4):
        yield Variant(f"graph: {hops} hops", {"graph": {**graph, "hops": hops}})
    along: Tree = {**graph, "messages": "attention"}
    yield Variant("graph: 2 hops, attention along edges", {"graph": along})
    yield Variant("graph: 2 hops, all neighbours", {"graph": {**graph, "selection": "dense"}})
    yield Variant("graph: 2 hops, no halting", {"graph": {**graph, "halting": False}})
    yield Variant("no graph: as many parameters", {"d_ff": as_wide(base, {"graph": graph})})


def as_wide(base: Tree, change: Tree) -> int:
    """The feed-forward width at which `base` has the parameters of `base` with `change`."""

    def parameters(tree: Tree) -> int:
        return count_parameters(AGIConfig.from_dict(dict(tree))).total

    one = parameters({**base, "d_ff": base["d_ff"] + 1}) - parameters(base)
    more = parameters({**base, **change}) - parameters(base)
    return int(base["d_ff"]) + round(more / one)
