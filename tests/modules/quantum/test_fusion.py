"""Fusion: every gate once, none before one that it must follow, in blocks of bounded size."""

import itertools

import numpy as np
import pytest

from rtdlm.modules.quantum.ansatz import hardware_efficient
from rtdlm.modules.quantum.fusion import Block, block_size, fuse
from tests.modules.quantum.circuits import random_circuit


@pytest.mark.parametrize("most", [2, 4, 5])
@pytest.mark.parametrize("num_qubits", [1, 4, 11])
def test_gates_that_meet_keep_their_order(num_qubits, most):
    circuit = random_circuit(np.random.default_rng(num_qubits), num_qubits, 120)
    blocks = fuse(circuit.ops, most=most)
    order = [number for block in blocks for number in block.ops]
    assert sorted(order) == list(range(len(circuit.ops)))
    for early, late in itertools.combinations(order, 2):
        if {*circuit.ops[early].qubits} & {*circuit.ops[late].qubits}:
            assert early < late
    for block in blocks:
        touched = {qubit for number in block.ops for qubit in circuit.ops[number].qubits}
        assert set(block.qubits) == touched
        assert len(touched) <= max(most, *(len(circuit.ops[number].qubits) for number in block.ops))


def test_a_ring_is_as_few_blocks_as_overlap():
    ops = hardware_efficient(12, num_rounds=1).ops
    qubits = [block.qubits for block in fuse(ops, most=5)]
    assert qubits == [(0, 1, 2, 3, 4), (4, 5, 6, 7, 8), (0, 8, 9, 10, 11)]


def test_turns_alone_fill_blocks():
    ops = hardware_efficient(7, num_rounds=1).ops[:14]
    first = Block((0, 1, 2, 3, 4), tuple(range(10)))
    assert fuse(ops, most=5) == (first, Block((5, 6), (10, 11, 12, 13)))


def test_blocks_of_small_states_are_small():
    assert [block_size(n) for n in (1, 4, 6, 8, 10, 20)] == [2, 2, 3, 4, 4, 4]
