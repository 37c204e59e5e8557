"""Pictures of studies in docs/images/, a panel a study or a task.

memory.png       what each tier of memory finds, by how far back it stands
forgetting.png   what a full store should forget
facts.png        facts learned by heart
text.png         held-out loss on long text, tier by tier
turns.png        how soon a returning task is known, and what is forgotten, by the rate of learning
controller.png   right answers by the compute that is allowed
"""

import io
import re
from collections.abc import Mapping, Sequence
from textwrap import fill
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
    """Regular expression of a result's name, with a group `at` and, of several sides, `side`."""
    scale: Literal["log", "symlog", "linear", "names"] = "log"
    """Of what is across; `symlog` is linear below a hundredth, and `names` are no numbers."""
    legend: Literal["center left", "center right", "lower right", "lower left"] = "center left"
    """Where it is."""
    up: Literal["percent", "log", "linear", "from zero"] = "percent"
    """Scale of what is up: of a share, of any positive number, or of what is there."""


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
FORGETTING = (
    Panel(
        "memory_forgetting", "Questions answered [%]", "stream of mentions and questions",
        "(?P<at>steady|drift|recent|changes), (?P<side>age|use|surprise|adaptive|best)/right",
        "names", "lower left",
    ),
)  # fmt: skip
FACTS = (
    Panel(
        "memory_facts", "Facts held", "at equal operations a token",
        "(?P<at>dense|product_key|ngram|facts that were shown)/facts", "names", up="from zero",
    ),
)  # fmt: skip
TEXT = (
    Panel(
        "memory_text", "Held-out loss [nats a character]", "memory", r"(?P<at>[^/]+)/loss",
        "names", up="linear",
    ),
)  # fmt: skip
RATE = "rate of learning, as multiple of that before"
TURNS = (
    Panel(
        "memory_turns", "Questions until a returning task is known", RATE,
        r"(?P<side>[^,]+), rate (?P<at>[\d.]+)/examples when it returns", "symlog",
        legend="lower right", up="log",
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
    "docs/images/forgetting.png": FORGETTING,
    "docs/images/facts.png": FACTS,
    "docs/images/text.png": TEXT,
    "docs/images/turns.png": TURNS,
    "docs/images/controller.png": CONTROLLER,
}


def lines(results: Sequence[Result], names: str) -> dict[str, dict[str, Result]]:
    """Side -> place across -> result; the side is empty where there is one."""
    found: dict[str, dict[str, Result]] = {}
    for result in results:
        if match := re.fullmatch(names, result.name):
            side = match.groupdict().get("side", "")
            found.setdefault(side, {})[match["at"]] = result
    return found


def draw_panels(panels: Sequence[Panel], studies: Mapping[str, Sequence[Result]]) -> bytes:
    """The picture as PNG; every panel's study is among `studies`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        width = 6.0 if len(panels) == 1 else 4.0 * len(panels)
        figure = Figure(figsize=(width, 3.6), dpi=150, layout="constrained")
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(every, panels, strict=True):
            _draw(axes, panel, lines(studies[panel.study], panel.names))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: "Axes", panel: Panel, found: Mapping[str, Mapping[str, Result]]) -> None:
    """Means, with the smallest and largest of the seeds; numbers are joined, names stand apart."""
    names = list(dict.fromkeys(at for by_place in found.values() for at in by_place))
    named = panel.scale == "names"
    where = {at: float(place) if named else float(at) for place, at in enumerate(names)}
    for number, (mark, (side, by_place)) in enumerate(zip(MARKS, found.items(), strict=False)):
        places = sorted(by_place, key=where.__getitem__)
        own = [by_place[place] for place in places]
        ends = [
            (result.value, result.value) if (s := result.spread) is None else s for result in own
        ]
        down = [result.value - low for result, (low, _) in zip(own, ends, strict=True)]
        up = [high - result.value for result, (_, high) in zip(own, ends, strict=True)]
        # Beside one another, so that none hides another.
        aside = 0.12 * (number - (len(found) - 1) / 2) if named else 0.0
        axes.errorbar(
            [where[place] + aside for place in places], [result.value for result in own],
            yerr=[down, up], label=side, marker=mark, markersize=4, capsize=2,
            linestyle="none" if named else "-",
        )  # fmt: skip
    axes.set(title=panel.title, xlabel=panel.across)
    if not named:
        axes.set_xscale(panel.scale, **({"linthresh": 0.01} if panel.scale == "symlog" else {}))
    if panel.up == "percent":
        axes.set_ylim(-4, 104)
    elif panel.up == "from zero":
        axes.set_ylim(bottom=0)
    elif panel.up == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    names.sort(key=where.__getitem__)
    widest = 60 // max(len(names), 1)
    told = [
        fill(at.replace("_", " "), widest, break_long_words=False) if named else f"{where[at]:g}"
        for at in names
    ]
    axes.set_xticks([where[at] for at in names], told, minor=False)
    axes.minorticks_off()
    if named:
        axes.set_xlim(-0.5, len(names) - 0.5)
    if len(found) > 1:
        axes.legend(fontsize=7, loc=panel.legend)
