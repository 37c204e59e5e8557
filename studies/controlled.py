"""A core that may stop after each of its steps, in parts, and how it is run: thorough or deployed.

A task gives a core (see `Core`); with a `ComputeController` it becomes a net of five parts that
share parameters. Run thoroughly, all rows take all steps and every exit is read. Deployed, a row
stops at the median of its exits, and those that are left are run alone (`run_active`), in one
compiled program.

Axes: N rows, M some of the rows, S exits, F features of the summary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import haiku as hk
import jax
import jax.numpy as jnp
import optax

from rtdlm.modules.controller import ComputeController, median_exit, run_active, stays
from rtdlm.modules.primitives import log_halting

Params = Any
Examples = Any
"""A NamedTuple of arrays with `answer`, int32 `[N]` or `[N, ...]`."""
CONTROLLER = "controller"
"""Name of the controller's module."""


class Core(Protocol):
    """What a task runs; all but `begin` take any rows."""

    def begin(self, examples: Examples) -> Any:
        """What is computed once for all rows."""

    def start(self, own: Any) -> Any:
        """The state of rows before the first step; `own` is what `Task.take` gives."""

    def step(self, own: Any, state: Any, number: jax.Array) -> tuple[Any, jax.Array]:
        """The next state, and a summary `[M, F]`; `number` is an int32 scalar, from 0."""

    def read(self, own: Any, state: Any) -> jax.Array:
        """Scores of answers, `[M, ..., classes]`."""


class Task(NamedTuple):
    """Examples of mixed difficulty, and a core for them."""

    draw: Callable[[jax.Array, int], Examples]
    """(key, rows) -> fresh examples."""
    difficulty: Callable[[Examples], jax.Array]
    """int32 `[N]`; no net is told it."""
    core: Callable[[], Core]
    take: Callable[[Any, jax.Array], Any]
    """(what `begin` made, places int32 `[M]`) -> what belongs to the rows there."""
    num_steps: int
    hidden: int
    """Of the controller."""


class Net(NamedTuple):
    """Pure functions of the parameters, which come first."""

    init: Callable[[jax.Array, Examples], Params]
    begin: Callable[..., Any]
    start: Callable[..., Any]
    step: Callable[..., Any]
    read: Callable[..., Any]
    decide: Callable[..., Any]


class Exits(NamedTuple):
    """All exits of all rows."""

    scores: jax.Array
    """`[S, N, ..., classes]`."""
    summary_SNF: jax.Array


class Deployed(NamedTuple):
    """What rows answered where they stopped."""

    scores: jax.Array
    """`[N, ..., classes]`."""
    exit_N: jax.Array


def net_of(task: Task) -> Net:
    """The task's core with a controller."""

    def build() -> Any:
        core = task.core()
        controller = ComputeController(
            num_steps=task.num_steps, hidden=task.hidden, name=CONTROLLER
        )

        def decide(summary_NF: jax.Array, number: jax.Array, price_N: Any, spent_N: Any) -> Any:
            return controller(summary_NF, step=number, price_N=price_N, spent_N=spent_N)

        def init(examples: Examples) -> None:
            own = task.take(core.begin(examples), jnp.arange(len(examples.answer)))
            state, summary_NF = core.step(own, core.start(own), jnp.int32(0))
            core.read(own, state)
            ones_N = jnp.ones(summary_NF.shape[:1])
            decide(summary_NF, jnp.int32(0), ones_N, ones_N)

        return init, (core.begin, core.start, core.step, core.read, decide)

    made = hk.without_apply_rng(hk.multi_transform(build))
    return Net(made.init, *made.apply)


def all_exits(task: Task, net: Net, params: Params, examples: Examples) -> Exits:
    """Runs everything."""
    own = _own(task, net, params, examples)

    def step(state: Any, number: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        state, summary_NF = net.step(params, own, state, number)
        return state, (net.read(params, own, state), summary_NF)

    numbers = jnp.arange(task.num_steps, dtype=jnp.int32)
    return Exits(*jax.lax.scan(step, net.start(params, own), numbers)[1])


def at_depth(task: Task, net: Net, params: Params, examples: Examples, *, depth: int) -> jax.Array:
    """Scores `[N, ..., classes]` after `depth` steps of all rows."""
    own = _own(task, net, params, examples)

    def step(state: Any, number: jax.Array) -> tuple[Any, None]:
        return net.step(params, own, state, number)[0], None

    numbers = jnp.arange(depth, dtype=jnp.int32)
    state, _ = jax.lax.scan(step, net.start(params, own), numbers)
    return net.read(params, own, state)


def decisions(
    task: Task, net: Net, params: Params, summary_SNF: jax.Array, *, price_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the exits, `[N, S]`, and confidence at each, `[N, S]` logits."""

    def one(summary_NF: jax.Array, number: jax.Array) -> Any:
        return net.decide(params, summary_NF, number, price_N, _spent(task, number, price_N))

    numbers = jnp.arange(task.num_steps, dtype=jnp.int32)
    found = jax.vmap(one, out_axes=1)(summary_SNF, numbers)
    return log_halting(found.halt_N[:, :-1]), found.confidence_N


def deployed(
    task: Task, net: Net, params: Params, examples: Examples, *, price: jax.Array
) -> Deployed:
    """Every row as far as the controller lets it go at this price."""
    given = net.begin(params, examples)
    count = len(examples.answer)
    everyone_N = jnp.arange(count)

    def step(rows: Any, place_M: jax.Array, number: jax.Array) -> Any:
        state, log_open_M, _, _ = rows
        state, summary_MF = net.step(params, task.take(given, place_M), state, number)
        price_M = jnp.full(place_M.shape, price)
        decision = net.decide(params, summary_MF, number, price_M, _spent(task, number, price_M))
        log_open_M, on_M = stays(log_open_M, decision.halt_N)
        return state, log_open_M, on_M, jnp.full(place_M.shape, number)

    def last(rows: Any, place_M: jax.Array) -> Any:
        state, log_open_M, on_M, _ = rows
        number = jnp.int32(task.num_steps - 1)
        state, _ = net.step(params, task.take(given, place_M), state, number)
        return state, log_open_M, on_M, jnp.full(place_M.shape, number)

    def advance(number: jax.Array, rows: Any) -> Any:
        return run_active(lambda own, place_M: step(own, place_M, number), rows, rows[2])

    state = net.start(params, task.take(given, everyone_N))
    rows = (state, jnp.zeros(count), jnp.ones(count, bool), jnp.zeros(count, jnp.int32))
    rows = jax.lax.fori_loop(0, task.num_steps - 1, advance, rows)
    state, _, _, exit_N = run_active(last, rows, rows[2])
    return Deployed(net.read(params, task.take(given, everyone_N), state), exit_N)


def exits_at(
    task: Task, net: Net, params: Params, summary_SNF: jax.Array, *, price: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The exit that each row takes at this price, int32 `[N]`, and its confidence there, logits."""
    price_N = jnp.full(summary_SNF.shape[1:2], price)
    log_halt_NS, sure_NS = decisions(task, net, params, summary_SNF, price_N=price_N)
    exit_N = median_exit(log_halt_NS)
    return exit_N, jnp.take_along_axis(sure_NS, exit_N[:, None], axis=1)[:, 0]


def losses(scores: jax.Array, answer: jax.Array) -> jax.Array:
    """`[N]`: cross-entropy of each row's whole answer [nats]."""
    found = optax.softmax_cross_entropy_with_integer_labels(scores, answer)
    return jnp.sum(found.reshape(found.shape[0], -1), axis=-1)


def is_right(scores: jax.Array, answer: jax.Array) -> jax.Array:
    """bool `[N]`: all of a row's answer is right."""
    same = jnp.argmax(scores, axis=-1) == answer
    return jnp.all(same.reshape(same.shape[0], -1), axis=-1)


def _own(task: Task, net: Net, params: Params, examples: Examples) -> Any:
    return task.take(net.begin(params, examples), jnp.arange(len(examples.answer)))


def _spent(task: Task, number: jax.Array, like_N: jax.Array) -> jax.Array:
    """The share of all steps that is done after this one."""
    return jnp.full(like_N.shape, (number + 1) / task.num_steps)
