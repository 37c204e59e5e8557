"""`python -m studies quantum_digits`: what a quantum circuit is worth in a small classifier.

Digits of 8 by 8 pixels (the test set of the UCI collection that scikit-learn carries): a product
makes one number a qubit, something is done to these, and a product of that tells the digit. Half of
the digits are trained on. Sides differ in the middle alone:

    quantum        a variational circuit, its angles trained
    frozen         the same circuit with its first, random angles
    dense          two layers of tanh with as many parameters as the circuit
    tanh           a tanh without parameters
    nothing        the two products alone

Axes: B batch, P pixels, Q qubits.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rtdlm.config.errors import UserError
from rtdlm.evaluation.results import Result
from rtdlm.modules.primitives import Projection
from rtdlm.modules.quantum import VariationalQuantumCircuit
from studies import small_nets
from studies.sides import add_only, chosen, each, whole_name
from studies.small_nets import Side, Trainer

DESCRIPTION = "a quantum circuit among digits, beside dense layers and its frozen twin"
SEEDS = 3
CLASSES = 10
FROZEN = "frozen"


class Size(NamedTuple):
    """The circuit, and how long sides are trained."""

    qubits: int
    rounds: int
    steps: int
    batch: int


WHOLE = Size(qubits=6, rounds=7, steps=1500, batch=64)
SMOKE = Size(qubits=2, rounds=3, steps=3, batch=4)


class Digits(NamedTuple):
    """Pixels from 0 to 1, and what they show."""

    pixels_BP: jax.Array
    class_B: jax.Array


class Ran(NamedTuple):
    """One side with one seed."""

    right: float
    """On the half that was not trained on [fraction]."""
    loss: float
    """There [nats]."""
    cpu: float
    """Of training alone [seconds]."""
    parameters: int
    """Of what is in the middle."""


@cache
def digits() -> tuple[Digits, Digits]:
    """Two halves, the same for every side and seed.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "scikit-learn, which carries the digits, is not installed; install it with "
            "`pip install 'rtdlm[bench]'` or `pip install scikit-learn`"
        ) from error
    pixels, number = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(number))
    halves = np.array_split(order, 2)
    first, second = (
        Digits(jnp.asarray(pixels[half] / 16, jnp.float32), jnp.asarray(number[half], jnp.int32))
        for half in halves
    )
    return first, second


def draw(key: jax.Array, *, batch: int) -> Digits:
    """Digits to train on."""
    train, _ = digits()
    row_B = jax.random.randint(key, (batch,), 0, len(train.class_B))
    return Digits(train.pixels_BP[row_B], train.class_B[row_B])


Middle = Callable[[jax.Array], jax.Array]


def middles(size: Size) -> dict[str, Middle]:
    """What each side does to `[B, Q]`."""

    def quantum(x_BQ: jax.Array) -> jax.Array:
        circuit = VariationalQuantumCircuit(
            size.qubits, num_outputs=size.qubits, num_rounds=size.rounds, name="circuit"
        )
        found: jax.Array = circuit(x_BQ)
        return found

    def dense(x_BQ: jax.Array) -> jax.Array:
        for _ in range(dense_layers(size)):
            shape = (size.qubits, size.qubits)
            x_BQ = jnp.tanh(Projection("BQ,QR->BR", shape=shape, bias=True, name="middle")(x_BQ))
        return x_BQ

    return {
        "quantum": quantum,
        FROZEN: quantum,
        "dense": dense,
        "tanh": jnp.tanh,
        "nothing": lambda x_BQ: x_BQ,
    }


def dense_layers(size: Size) -> int:
    """Layers with the circuit's parameters, two a qubit and round."""
    layers, rest = divmod(2 * size.rounds, size.qubits + 1)
    assert rest == 0, size
    return layers


def net(middle: Middle, size: Size) -> hk.Transformed:
    """Scores of all digits."""

    def build(examples: Digits) -> jax.Array:
        shape = (examples.pixels_BP.shape[-1], size.qubits)
        x_BQ = Projection("BP,PQ->BQ", shape=shape, bias=True, name="first")(examples.pixels_BP)
        shape = (size.qubits, CLASSES)
        scores_BC: jax.Array = Projection("BQ,QC->BC", shape=shape, bias=True, name="last")(
            middle(x_BQ)
        )
        return scores_BC

    return hk.without_apply_rng(hk.transform(build))


def loss(net: hk.Transformed, params: Any, examples: Digits, *, frozen: bool = False) -> jax.Array:
    """Cross-entropy of the right digit; `frozen` lets no gradient reach the circuit."""
    if frozen:
        held = {"circuit": jax.lax.stop_gradient(params["circuit"])}
        params = {**params, **held}
    scores_BC = net.apply(params, examples)
    found = optax.softmax_cross_entropy_with_integer_labels(scores_BC, examples.class_B)
    return jnp.mean(found)


def add_flags(parser: ArgumentParser) -> None:
    """Adds what only this study takes."""
    add_only(parser)


def file_name(flags: Namespace) -> str | None:
    """Name of the result file; None for a part of the study."""
    return whole_name(flags, "quantum_digits")


def measure(flags: Namespace) -> Iterator[list[Result]]:
    """The results so far, after every side and seed.

    Raises:
        UserError: no side has the word in its name, or scikit-learn is not installed.
    """
    size = SMOKE if flags.smoke else WHOLE
    found = chosen(flags, middles(size), smoke=("quantum", FROZEN, "dense"))
    judges = {name: Judge(name, middle, size) for name, middle in found.items()}

    def one(name: str, judge: Judge, seed: int) -> Ran:
        del name
        return judge(seed)

    for ran in each(judges, one, lambda ran: f"{ran.right:.1%}", flags=flags, usual=SEEDS):
        yield results(ran)


class Judge:
    """Trains and tests one side."""

    def __init__(self, name: str, middle: Middle, size: Size) -> None:
        own = partial(loss, frozen=name == FROZEN)
        self._side = Side(net(middle, size), own, partial(draw, batch=size.batch))
        self._trainer = Trainer(self._side, steps=size.steps)
        self._rate: float | None = None

    def __call__(self, seed: int) -> Ran:
        """One seed; the first chooses the learning rate."""
        if self._rate is None:
            self._rate = self._trainer.best_rate(0)
        done = self._trainer.train(seed, rate=self._rate)
        _, test = digits()
        scores_BC = jax.jit(self._side.net.apply)(done.params, test)
        between = {path: own for path, own in done.params.items() if path not in ("first", "last")}
        return Ran(
            right=float(jnp.mean(jnp.argmax(scores_BC, axis=1) == test.class_B)),
            loss=float(loss(self._side.net, done.params, test)),
            cpu=done.cpu,
            parameters=small_nets.parameters(between),
        )


def results(ran: Mapping[str, Sequence[Ran]]) -> list[Result]:
    """Everything that is told of the sides that ran."""
    found = []
    for name, own in ran.items():
        found += [
            Result.mean(f"{name}/right", [100 * one.right for one in own], "%"),
            Result.mean(f"{name}/loss", [one.loss for one in own], "nats"),
            Result.mean(f"{name}/CPU of training", [one.cpu for one in own], "s"),
            Result(f"{name}/parameters in the middle", float(own[0].parameters), ""),
        ]
    return found
