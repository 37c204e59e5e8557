"""What a compute controller did with a text: token by token, what ran, why, and what it cost.

    trace = trace_text(model, params, tokenizer, "To be, or not to be")
    print(trace.table());  Path("trace.png").write_bytes(trace.picture())

The numbers are the run's own: `steps` is what the compiled program counted while it ran the core.
"""

import io
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.config import STRATEGIES, UserError
from rtdlm.data import Tokenizer
from rtdlm.models import TMSModel
from rtdlm.models.contracts import call_costs, step_cost
from rtdlm.models.core import CORE, PRICED
from rtdlm.models.cost import forward_flops_per_token
from rtdlm.models.tms import Params
from rtdlm.monitoring.curves import STYLE

CALLS = "tab:red"
"""Of the frame around tokens that called a module."""
WIDTH = 88
"""Characters of a line in the picture."""


@dataclass(frozen=True)
class TracedToken:
    """One token of the text, as it was read."""

    text: str
    steps: int
    """Of the core."""
    why: str
    """Why no more."""
    confidence: float
    """Of the policy, that the first choice for the next token is right [probability]."""
    loss: float | None
    """Of the next token; None at the end of the text [nats]."""
    calls: tuple[int, ...] = ()
    """Of each of the trace's `modules`."""


@dataclass(frozen=True)
class Trace:
    """One text through one model."""

    strategy: str
    price: float | None
    """What a step must save; None where all are taken [nats a step]."""
    max_steps: int
    planned_steps: float
    """The strategy's budget [steps a token]."""
    step_flops: float
    """Of one step and token."""
    other_flops: float
    """Of everything else, a token."""
    tokens: tuple[TracedToken, ...]
    modules: tuple[str, ...] = ()
    """Those that a token may call, in every step but the first."""
    call_flops: tuple[float, ...] = ()
    """Of one call and token."""

    @cached_property
    def mean_steps(self) -> float:
        """Taken, a token."""
        return float(np.mean([token.steps for token in self.tokens]))

    @cached_property
    def mean_calls(self) -> tuple[float, ...]:
        """Of each of `modules`, a token."""
        return tuple(np.mean([token.calls for token in self.tokens], axis=0).tolist())

    @property
    def _all_flops(self) -> float:
        """Operations a token that takes every step and calls everything in it."""
        more = (self.max_steps - 1) * sum(self.call_flops)
        return self.other_flops + self.max_steps * self.step_flops + more

    @property
    def _planned_flops(self) -> float:
        """Of the strategy's budget, which is a share of all steps and calls."""
        share = self.planned_steps / self.max_steps
        return self.other_flops + share * (self._all_flops - self.other_flops)

    @property
    def _spent_flops(self) -> float:
        calls = zip(self.mean_calls, self.call_flops, strict=True)
        called = sum(number * each for number, each in calls)
        return self.other_flops + self.mean_steps * self.step_flops + called

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return asdict(self) | {
            "mean_steps": self.mean_steps,
            "mean_calls": self.mean_calls,
            "planned_flops": self._planned_flops,
            "spent_flops": self._spent_flops,
            "all_steps_flops": self._all_flops,
        }

    def table(self) -> str:
        """A line a token, then the sums."""
        heads = "".join(f"  {name:>9}" for name in self.modules)
        lines = [f"{'token':16} {'steps':5}{heads}  {'confident':9}  {'loss':>6}  why it stopped"]
        for token in self.tokens:
            loss = "" if token.loss is None else f"{token.loss:6.3f}"
            bar, calls = "#" * token.steps, "".join(f"  {count:9}" for count in token.calls)
            lines.append(
                f"{repr(token.text)[:16]:16} {bar:5}{calls}  {token.confidence:9.1%}  {loss:>6}  "
                f"{token.why}"
            )
        price = "every step" if self.price is None else f"price {self.price:.4g} nats a step"
        called = "".join(
            f"{number:.2f} calls of {name}, "
            for name, number in zip(self.modules, self.mean_calls, strict=True)
        )
        lines.append(
            f"{self.strategy}, {price}: {self.mean_steps:.2f} steps a token of "
            f"{self.max_steps}, {called}{self._planned}; "
            f"{self._spent_flops / 1e6:.3f} MFLOP a token, "
            f"{self._spent_flops / self._all_flops:.0%} of all steps' {self._all_flops / 1e6:.3f}"
        )
        return "\n".join(lines)

    @property
    def _planned(self) -> str:
        if not self.modules:
            return f"{self.planned_steps:.2f} planned"
        return f"{self._planned_flops / 1e6:.3f} MFLOP planned"

    def picture(self) -> bytes:
        """The text with every token on the colour of its steps, callers framed, as PNG."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        places = _places([token.text for token in self.tokens])
        rows = 1 + max(row for row, _, _ in places)
        with mpl.rc_context(STYLE):
            colours = mpl.colormaps["YlGnBu"]
            figure = Figure(figsize=(10, 0.9 + 0.27 * rows), dpi=150, layout="constrained")
            axes = figure.subplots()
            for token, (row, column, shown) in zip(self.tokens, places, strict=True):
                share = (token.steps - 1) / max(1, self.max_steps - 1)
                axes.barh(
                    -row, len(shown), left=column, height=0.9, color=colours(0.08 + 0.72 * share),
                    edgecolor="white", linewidth=0.6,
                )  # fmt: skip
                if any(token.calls):
                    axes.barh(
                        -row, len(shown) - 0.2, left=column + 0.1, height=0.78, fill=False,
                        edgecolor=CALLS,
                    )  # fmt: skip
                axes.text(
                    column + len(shown) / 2, -row, shown, family="monospace", fontsize=8,
                    ha="center", va="center", color="black" if share < 0.67 else "white",
                )  # fmt: skip
            axes.set(xlim=(0, WIDTH), ylim=(0.6 - rows, 0.6))
            axes.axis("off")
            marks = [
                mpl.patches.Patch(
                    color=colours(0.08 + 0.72 * (step - 1) / max(1, self.max_steps - 1)),
                    label=f"{step} step" + "s" * (step > 1),
                )
                for step in range(1, self.max_steps + 1)
            ]
            if self.modules:
                label = f"calls of {' or '.join(self.modules)}"
                marks.append(mpl.patches.Patch(fill=False, edgecolor=CALLS, label=label))
            axes.legend(handles=marks, ncols=len(marks), loc="lower left", bbox_to_anchor=(0, 1))
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def trace_text(model: TMSModel, params: Params, tokenizer: Tokenizer, text: str) -> Trace:
    """What `model` does with `text`, as one document.

    Raises:
        UserError: the model has no controller, or the text has no token or more than a row.
    """
    config = model.config
    if not config.use_compute_controller:
        raise UserError(
            "the model has no compute controller, so there is nothing to trace; train one with "
            "use_compute_controller=true"
        )
    own = tokenizer.encode(text)
    if not 1 <= len(own) <= config.max_seq_len:
        raise UserError(
            f"the text has {len(own)} tokens; a trace is of 1 to max_seq_len={config.max_seq_len}"
        )
    ids_BT = jnp.asarray(np.asarray(own, np.int32)[None])
    labels_BT = jnp.roll(ids_BT, -1, axis=1)
    scores = jax.jit(lambda params: model.scores(params, ids_BT, labels_BT))(params)
    spent = jax.device_get(scores.spent)
    assert spent is not None
    losses, calls = np.asarray(scores.tokens.nll)[0], spent.calls_BTM
    tokens = tuple(
        TracedToken(
            text=tokenizer.decode([int(token)]),
            steps=int(spent.steps_BT[0, place]),
            why=_why(
                int(spent.steps_BT[0, place]), float(spent.open_BT[0, place]), config.strategy
            ),
            confidence=float(1 / (1 + np.exp(-spent.confidence_BT[0, place]))),
            loss=float(losses[place]) if place + 1 < len(own) else None,
            calls=() if calls is None else tuple(int(count) for count in calls[0, place]),
        )
        for place, token in enumerate(own)
    )
    most, length = config.controller.steps, config.max_seq_len
    one, costs = step_cost(config), call_costs(config)
    every = most * one + (most - 1) * one * sum(costs)
    return Trace(
        strategy=config.strategy,
        price=_price(model, params),
        max_steps=most,
        planned_steps=most * STRATEGIES[config.strategy].budget,
        step_flops=one,
        other_flops=forward_flops_per_token(config, length=length) - every,
        tokens=tokens,
        modules=config.called,
        call_flops=tuple(cost * one for cost in costs),
    )


def _why(steps: int, still_open: float, strategy: str) -> str:
    if strategy not in PRICED:
        return "no steps are left"
    if still_open > 0.5:
        return f"no steps are left, {still_open:.0%} for more"
    return f"{1 - still_open:.0%} for stopping by step {steps}"


def _price(model: TMSModel, params: Params) -> float | None:
    config = model.config
    if config.strategy not in PRICED:
        return None
    if config.controller.price is not None:
        return config.controller.price
    return float(np.exp(params[CORE]["log_prices"][PRICED.index(config.strategy)]))


def _places(texts: list[str]) -> list[tuple[int, int, str]]:
    """Row, column and what is shown of every token; a line ends where the text's does."""
    found, row, column = [], 0, 0
    for text in texts:
        shown = text.replace("\n", "\u21b5").replace("\t", "\u2192").replace(" ", "\u00b7")
        if column and column + len(shown) > WIDTH:
            row, column = row + 1, 0
        found.append((row, column, shown))
        column += len(shown)
        if "\n" in text:
            row, column = row + 1, 0
    return found
