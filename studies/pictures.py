"""Pictures of studies in docs/images/, a panel a study or a task.

memory.png       what each tier of memory finds, by how far back it stands
turns.png        how soon a returning task is known, and what is forgotten, by the rate of learning
controller.png   right answers by the compute that is allowed
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from rtdlm.evaluation.results import Result
from rtdlm.monitoring.curves import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKS = "osD^vPX*"


class Panel(NamedTuple):
    """One study."""

    study: str
    title: str
    across: str
    names: str
    """Regular expression of a result's name, with groups `side` and `at`."""
    scale: Literal["log", "symlog", "linear"] = "log"
    """Of what is across; `symlog` is linear below a hundredth."""
    legend: Literal["center left", "center right", "lower right", "upper right"] = "center left"
    """Where it is."""
    percent: bool = True
    """Whether what is up is a share; else any positive number, in a logarithmic scale."""


MEMORY = (
    Panel(
        "memory_recall", "Pairs recalled [%]", "segments of a row",
        r"(?P<side>[^/]+)/right, (?P<at>\d+) segments",
    ),
    Panel(
        "memory_rule", "Images by a hidden rule [%]", "segments later",
        r"(?P<side>[^/]+)/right, (?P<at>\d+) segments later", legend="center right",
    ),
    Panel(
        "memory_passkey", "Passkeys found [%]", "segments of a row",
        r"(?P<side>[^/]+)/keys found, (?P<at>\d+) segments",
    ),
)  # fmt: skip
RATE = "rate of learning, as multiple of that before"
TURNS = (
    Panel(
        "memory_turns", "Questions until a returning task is known", RATE,
        r"(?P<side>[^,]+), rate (?P<at>[\d.]+)/examples when it returns", "symlog",
        legend="lower right", percent=False,
    ),
    Panel(
        "memory_turns", "Forgotten by the end [%]", RATE,
        r"(?P<side>[^,]+), rate (?P<at>[\d.]+)/forgetting", "symlog",
    ),
)  # fmt: skip
SIDES = "controller|random exits|one depth for all"
CONTROLLER = tuple(
    Panel(
        "controller", title, "operations allowed [% of all steps]",
        rf"budgets/{task}, (?P<at>\d\d) %/(?P<side>{SIDES})", "linear", "lower right",
    )
    for task, title in (("hops", "Pointers followed [%]"), ("addition", "Sums right [%]"))
)  # fmt: skip
PICTURES: Mapping[str, Sequence[Panel]] = {
    "docs/images/memory.png": MEMORY,
    "docs/images/turns.png": TURNS,
    "docs/images/controller.png": CONTROLLER,
}


def lines(results: Sequence[Result], names: str) -> dict[str, dict[float, Result]]:
    """Side -> place across -> result."""
    found: dict[str, dict[float, Result]] = {}
    for result in results:
        if match := re.fullmatch(names, result.name):
            found.setdefault(match["side"], {})[float(match["at"])] = result
    return found


def draw_panels(panels: Sequence[Panel], studies: Mapping[str, Sequence[Result]]) -> bytes:
    """The picture as PNG; every panel's study is among `studies`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.0 * len(panels), 3.6), dpi=150, layout="constrained")
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(every, panels, strict=True):
            _draw(axes, panel, lines(studies[panel.study], panel.names))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: "Axes", panel: Panel, found: Mapping[str, Mapping[float, Result]]) -> None:
    """Means, with the smallest and largest of the seeds."""
    for mark, (side, by_place) in zip(MARKS, found.items(), strict=False):
        places = sorted(by_place)
        own = [by_place[place] for place in places]
        ends = [
            (result.value, result.value) if (s := result.spread) is None else s for result in own
        ]
        down = [result.value - low for result, (low, _) in zip(own, ends, strict=True)]
        up = [high - result.value for result, (_, high) in zip(own, ends, strict=True)]
        axes.errorbar(
            places, [result.value for result in own], yerr=[down, up], label=side, marker=mark,
            markersize=4, capsize=2,
        )  # fmt: skip
    places = sorted({place for by_place in found.values() for place in by_place})
    axes.set(title=panel.title, xlabel=panel.across)
    axes.set_xscale(panel.scale, **({"linthresh": 0.01} if panel.scale == "symlog" else {}))
    if panel.percent:
        axes.set_ylim(-4, 104)
    else:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(places, [f"{place:g}" for place in places], minor=False)
    axes.minorticks_off()
    axes.legend(fontsize=7, loc=panel.legend)
