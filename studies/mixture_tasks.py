"""A mixture of four tasks, each of which needs another kind of computation, all in one form.

A row is eight tokens, a question and a store of pairs that no token shows; the answer is one of
eight classes. No row says whose it is: that has to be seen from what its tokens hold.

    memory     the question is the code of a pair in the store; the answer, that pair's class. Its
               tokens are a graph like that of the next task, which has no such code.
    graph      tokens are the edges of a cycle, in random order, each as the codes of its two ends;
               the question, a node and 1 to 4 hops; the answer, the token whose edge begins there
    quantum    tokens hold an angle a qubit; the answer, the signs of three expectation values of a
               circuit with random angles, the same for all rows
    depth      the first 1 to 8 tokens hold three bits each; the answer, the three parities

Axes: B batch, T tokens, question included, F features of a token, C features of a code, M pairs,
Y classes.
"""

from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtdlm.modules.primitives import unit
from rtdlm.modules.quantum import ANSATZES, run
from rtdlm.modules.quantum.variational import turned

TASKS = ("memory", "graph", "quantum", "depth")
TOKENS = 8
CLASSES = 8
CODE = 16
FEATURES = 2 * CODE
PAIRS = 32
HOPS = 4
QUBITS = 4
BITS = 3
ROUNDS = 1
ANSATZ = "hardware_efficient"


class Rows(NamedTuple):
    """What modules are given."""

    token_BTF: jax.Array
    """The question is the last."""
    key_BMC: jax.Array
    """Codes of the pairs in the store."""
    class_BMY: jax.Array
    """Their classes, as ones among zeros."""


class Mixture(NamedTuple):
    """Rows of all tasks in random order, with what judges them."""

    rows: Rows
    answer_B: jax.Array
    task_B: jax.Array
    """int32 place in `TASKS`: what judges and the oracle know."""
    key_B: jax.Array
    """Of whatever is drawn for the row in training."""


def draw(key: jax.Array, *, batch: int, tasks: Sequence[int] = (0, 1, 2, 3)) -> Mixture:
    """Fresh rows of `tasks`, each equally likely; compiled once for as many tasks."""
    teacher()  # outside of the trace
    return _draw(key, jnp.asarray(tasks), batch=batch)


@partial(jax.jit, static_argnames="batch")
def _draw(key: jax.Array, tasks: jax.Array, *, batch: int) -> Mixture:
    of_task, of_store, of_pair, of_own, of_rest = jax.random.split(key, 5)
    task_B = tasks[jax.random.randint(of_task, (batch,), 0, len(tasks))]
    store_key, store_class = jax.random.split(of_store)
    pair_B = jax.random.randint(of_pair, (batch,), 0, PAIRS)
    key_BMC = unit(jax.random.normal(store_key, (batch, PAIRS, CODE)))
    class_BM = jax.random.randint(store_class, (batch, PAIRS), 0, CLASSES)
    edges, graph = _graph(jax.random.fold_in(of_own, 0), batch)
    asked_BC = jnp.take_along_axis(key_BMC, pair_B[:, None, None], axis=1)[:, 0]
    asked_BF = jnp.concatenate([asked_BC, jnp.zeros_like(asked_BC)], axis=-1)
    recalled_B = jnp.take_along_axis(class_BM, pair_B[:, None], axis=1)[:, 0]
    found = (
        (edges.at[:, -1].set(asked_BF), recalled_B),
        (edges, graph),
        _quantum(jax.random.fold_in(of_own, 1), batch),
        _depth(jax.random.fold_in(of_own, 2), batch),
    )
    row_B = jnp.arange(batch)
    token_BTF = jnp.stack([tokens for tokens, _ in found])[task_B, row_B]
    answer_B = jnp.stack([answer for _, answer in found])[task_B, row_B]
    rows = Rows(token_BTF, key_BMC, jax.nn.one_hot(class_BM, CLASSES))
    return Mixture(rows, answer_B, task_B, jax.random.split(of_rest, batch))


def _graph(key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    of_code, of_order, of_start, of_hops = jax.random.split(key, 4)
    code_BNC = unit(jax.random.normal(of_code, (batch, TOKENS, CODE)))
    keys = jax.random.split(of_order, batch)
    order_BN = jax.vmap(lambda key: jax.random.permutation(key, TOKENS))(keys)
    place_BN = jnp.argsort(order_BN, axis=1)

    def node_at(place: jax.Array) -> jax.Array:
        return jnp.take_along_axis(order_BN, place % TOKENS, axis=1)

    target_BNC = jnp.take_along_axis(code_BNC, node_at(place_BN + 1)[:, :, None], axis=1)
    hops_B = jax.random.randint(of_hops, (batch,), 1, HOPS + 1)
    start_B1 = jax.random.randint(of_start, (batch, 1), 0, TOKENS)
    asked_BC = jnp.take_along_axis(code_BNC, start_B1[:, :, None], axis=1)[:, 0]
    question_BF = jnp.concatenate([asked_BC, jax.nn.one_hot(hops_B - 1, CODE)], axis=-1)
    edge_BNF = jnp.concatenate([code_BNC, target_BNC], axis=-1)
    begin_B1 = jnp.take_along_axis(place_BN, start_B1, axis=1)
    answer_B = node_at(begin_B1 + hops_B[:, None])[:, 0]
    return jnp.concatenate([edge_BNF, question_BF[:, None]], axis=1), answer_B


def _quantum(key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    angle_BQ = jax.random.uniform(key, (batch, QUBITS), minval=-jnp.pi, maxval=jnp.pi)
    tokens = jnp.zeros((batch, TOKENS + 1, FEATURES)).at[:, :QUBITS, 0].set(angle_BQ)
    return tokens, taught(angle_BQ)


def taught(angle_BQ: jax.Array) -> jax.Array:
    """int32 `[B]`: the class that the fixed circuit gives to angles."""
    turned_BN = jax.vmap(turned)(angle_BQ)
    chance_BN = jnp.abs(jnp.einsum("NM,BM->BN", teacher(), turned_BN)) ** 2
    bits_NZ = np.indices((2,) * QUBITS).reshape(QUBITS, -1).T[:, :BITS]
    above_BZ = (chance_BN @ jnp.asarray(1.0 - 2.0 * bits_NZ, jnp.float32) > 0).astype(jnp.int32)
    return above_BZ @ jnp.asarray([4, 2, 1])


@cache
def teacher() -> np.ndarray:
    """Complex `[2^Q, 2^Q]`: the circuit as one matrix."""
    circuit = ANSATZES[ANSATZ](QUBITS, num_rounds=ROUNDS)
    angles = np.random.default_rng(TEACHER).uniform(0, 2 * np.pi, (ROUNDS, circuit.num_params))
    basis_NM = jnp.eye(2**QUBITS, dtype=jnp.complex64)
    with jax.ensure_compile_time_eval():
        made = jax.vmap(lambda state: run(circuit, jnp.asarray(angles, jnp.float32), state=state))
        return np.asarray(jax.jit(made)(basis_NM)).T


TEACHER = 1
"""Seed of the circuit's angles."""


def _depth(key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    of_bit, of_length = jax.random.split(key)
    bit_BNZ = jax.random.bernoulli(of_bit, 0.5, (batch, TOKENS, BITS))
    length_B1 = jax.random.randint(of_length, (batch, 1), 1, TOKENS + 1)
    there_BN1 = (jnp.arange(TOKENS)[None] < length_B1)[..., None]
    sign_BNZ = jnp.where(there_BN1, jnp.where(bit_BNZ, 1.0, -1.0), 0.0)
    tokens = jnp.pad(sign_BNZ, ((0, 0), (0, 1), (1, FEATURES - BITS - 1)))
    count_BZ = jnp.sum(bit_BNZ & there_BN1, axis=1)
    return tokens, count_BZ % 2 @ jnp.asarray([4, 2, 1])
