"""The modules of the mixture: four computations with one interface, rows in and class scores out.

    memory     exact top-k reading of the row's store
    graph      a graph learned over the tokens, walked for as many hops as the question says
    quantum    a circuit turned by the tokens' angles, of the kind that made the answers
    depth      one step with a copy gate, run over the tokens one after another

Each reads what it knows how to read, `depth` the bits and `quantum` the angles, and knows nothing
of the tasks: on the rows of another its scores are noise. Costs are floating-point operations a
row, two a product's entry; functions of single entries are not counted.

Axes: B batch, T tokens, question included, F features of a token, C features of a code, M pairs,
Y classes, E key features, H heads, Q qubits, N nodes, Z bits, D the step's state.
"""

from collections.abc import Callable, Mapping

import haiku as hk
import jax
import jax.numpy as jnp

from rtdlm.modules.controller import Contract, CopyGate
from rtdlm.modules.feedforward import Gated
from rtdlm.modules.graph import Dense, DynamicGraphBuilder, after, walk
from rtdlm.modules.memory import Store, read_store
from rtdlm.modules.memory.scores import FIRST_SCALE, positive
from rtdlm.modules.primitives import Projection, RMSNorm, unit
from rtdlm.modules.quantum import VariationalQuantumCircuit, estimate_quantum_overhead
from studies.mixture_tasks import (
    ANSATZ,
    BITS,
    CLASSES,
    CODE,
    HOPS,
    PAIRS,
    QUBITS,
    ROUNDS,
    TOKENS,
    Rows,
)

KEY = 32
TOP_K = 4
STATE = 32
HIDDEN = 64
SHARPNESS = 5.0
"""Of scores, before training, where what a module finds is at most one."""


def memory(rows: Rows) -> jax.Array:
    """`[B, Y]`: class of the pairs whose code is likest the question's."""
    shape = (CODE, 1, KEY)
    query = Projection("BTC,CHE->BTHE", shape=shape, name="query")
    key = Projection("BMC,CHE->BMHE", shape=shape, start=query.weight(), name="key")
    batch = rows.key_BMC.shape[:2]
    store = Store.empty(*batch, 1, KEY)._replace(
        key_BMHE=unit(key(rows.key_BMC)),
        value_BMHE=rows.class_BMY[:, :, None],
        label_BM=jnp.ones(batch, jnp.int32),
    )
    null_H = hk.get_parameter("null", (1,), jnp.float32, hk.initializers.Constant(0.0))
    reading = read_store(
        unit(query(rows.token_BTF[:, -1:, :CODE])),
        store,
        jnp.ones((batch[0], 1), jnp.int32),
        top_k=TOP_K,
        scale_H=positive("scale", 1, FIRST_SCALE),
        null_H=null_H,
        any_label=True,
    )
    return positive("sharpness", 1, SHARPNESS)[None] * reading.read_BTHE[:, 0, 0]


def graph(rows: Rows) -> jax.Array:
    """`[B, Y]`: where the edges lead."""
    source, target = jnp.split(rows.token_BTF, [CODE], axis=-1)
    # What is looked for is where an edge ends, and, once, the code that is asked for.
    looking = jnp.concatenate([target[:, :TOKENS], source[:, TOKENS:]], axis=1)
    builder = DynamicGraphBuilder(neighbours=1, key_dim=KEY)
    everyone = jnp.ones((len(source), TOKENS + 1, TOKENS), bool)
    read = builder(looking, read_BMD=source[:, :TOKENS], allowed_BNM=everyone).weight_BRNM
    walked = walk(read[:, 0, TOKENS:], Dense(read[:, :, :TOKENS]), hops=HOPS)
    hops_B = 1 + jnp.argmax(target[:, TOKENS, :HOPS], axis=-1)
    place_BN = after(walked, hops_B[:, None])[:, 0]
    return positive("sharpness", 1, SHARPNESS)[None] * place_BN


def quantum(rows: Rows) -> jax.Array:
    """`[B, Y]`: of the circuit's expectation values."""
    circuit = VariationalQuantumCircuit(
        QUBITS, num_outputs=QUBITS, num_rounds=ROUNDS, ansatz=ANSATZ, name="circuit"
    )
    found_BQ = circuit(rows.token_BTF[:, :QUBITS, 0])
    shape = (QUBITS, CLASSES)
    answer = Projection("BQ,QY->BY", shape=shape, scale=SHARPNESS, bias=True, name="answer")
    return answer(found_BQ)


def depth(rows: Rows) -> jax.Array:
    """`[B, Y]`: of the state after the last token."""
    token_BNZ = rows.token_BTF[:, :TOKENS, 1 : 1 + BITS]
    gate = CopyGate(num_steps=TOKENS, features=STATE)
    core = Gated(d_ff=HIDDEN, out_scale=1.0, name="step")
    opens_BND = gate.opens(token_BNZ)
    norm = RMSNorm()
    read = Projection("BNZ,ZD->BND", shape=(BITS, STATE), name="read")
    read_BND = read(token_BNZ)
    begin_D = hk.get_parameter("begin", (STATE,), jnp.float32, hk.initializers.RandomNormal(1.0))
    state_BD = jnp.broadcast_to(begin_D, (len(token_BNZ), STATE))
    for step in range(TOKENS):
        new_BD = core(norm(state_BD + read_BND[:, step])[:, None])[:, 0]
        state_BD = gate(state_BD, new_BD, opens_BND[:, step], jnp.int32(step))
    return Projection("BD,DY->BY", shape=(STATE, CLASSES), bias=True, name="answer")(state_BD)


def memory_cost() -> float:
    """Operations a row."""
    projected = 2 * (1 + PAIRS) * CODE * KEY
    return float(projected + 2 * PAIRS * (KEY + CLASSES))


def graph_cost() -> float:
    """Operations a row."""
    projected = 2 * (2 * TOKENS + 1) * CODE * KEY
    return float(projected + 2 * (TOKENS + 1) * TOKENS * KEY + 2 * HOPS * TOKENS**2)


def quantum_cost() -> float:
    """Operations a row, of the state alone: matrices are made once."""
    state = estimate_quantum_overhead(QUBITS, ROUNDS, ansatz=ANSATZ).flops
    return float(state + 2 * 2**QUBITS * QUBITS + 2 * QUBITS * CLASSES)


def depth_cost() -> float:
    """Operations a row."""
    step = 3 * 2 * STATE * HIDDEN + 2 * 2 * BITS * STATE
    return float(TOKENS * step + 2 * STATE * CLASSES)


MODULES: Mapping[str, Callable[[Rows], jax.Array]] = {
    "memory": memory,
    "graph": graph,
    "quantum": quantum,
    "depth": depth,
}
"""By the task that needs it."""
CONTRACTS: Mapping[str, Contract] = {
    "memory": Contract(
        "memory", ("question", "store"), "the class of a stored pair", "no scores", "row",
        memory_cost,
    ),
    "graph": Contract(
        "graph", ("tokens", "question"), "the end of a walk", "no scores", "row", graph_cost
    ),
    "quantum": Contract(
        "quantum", ("tokens",), "signs of expectations", "no scores", "row", quantum_cost
    ),
    "depth": Contract(
        "depth", ("tokens",), "what steps make of the tokens", "no scores", "row", depth_cost
    ),
}  # fmt: skip
