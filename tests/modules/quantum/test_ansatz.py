"""Ansatzes as literal lists of gates, and what is refused."""

import pytest

from rtdlm.config import UserError
from rtdlm.modules.quantum.ansatz import (
    ANSATZES,
    brick_wall,
    data_reuploading,
    hardware_efficient,
    strongly_entangling,
)


def listed(circuit):
    return " ".join(each.gate + "".join(map(str, each.qubits)) for each in circuit.ops)


def test_rounds_are_these_gates():
    ring = "CNOT01 CNOT12 CNOT20"
    assert listed(hardware_efficient(3, num_rounds=1)) == f"RY0 RZ0 RY1 RZ1 RY2 RZ2 {ring}"
    wide = listed(strongly_entangling(3, num_rounds=1, reaches=(1, 2)))
    assert wide == f"U30 U31 U32 {ring} U30 U31 U32 CNOT02 CNOT10 CNOT21"
    data = listed(data_reuploading(3, num_rounds=1, num_features=4))
    assert data == "U30 U31 U32 CZ01 CZ12 CZ20"
    bricks = "RY0 RZ0 RY1 RZ1 CZ01 RY2 RZ2 RY3 RZ3 CZ23 RY1 RZ1 RY2 RZ2 CZ12"
    assert listed(brick_wall(4, num_rounds=1)) == bricks


def test_two_qubits_have_one_pair_and_one_has_none():
    assert listed(hardware_efficient(2, num_rounds=1)) == "RY0 RZ0 RY1 RZ1 CNOT01"
    assert listed(hardware_efficient(1, num_rounds=1)) == "RY0 RZ0"
    assert listed(strongly_entangling(1, num_rounds=1)) == "U30"


@pytest.mark.parametrize(("num_features", "turns"), [(1, 1), (6, 1), (7, 2)])
def test_every_angle_has_a_shift_and_a_weight_and_every_feature_an_angle(num_features, turns):
    circuit = data_reuploading(2, num_rounds=3, num_features=num_features)
    angles = [angle for each in circuit.ops for angle in each.angles]
    assert len(angles) == 6 * turns
    assert [angle.feature for angle in angles] == [i % num_features for i in range(6 * turns)]
    numbers = [number for angle in angles for number in (angle.param, angle.weight)]
    assert numbers == list(range(12 * turns))


@pytest.mark.parametrize("name", [name for name in ANSATZES if name != "data_reuploading"])
def test_every_angle_has_a_parameter_of_its_own(name):
    circuit = ANSATZES[name](5, num_rounds=2)
    params = [angle.param for each in circuit.ops for angle in each.angles]
    assert params == list(range(circuit.num_params)) and circuit.num_rounds == 2


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="reach of 3 on 3 qubits"):
        strongly_entangling(3, num_rounds=1, reaches=(1, 3))
    with pytest.raises(UserError, match="data_reuploading of 0 features"):
        data_reuploading(3, num_rounds=1, num_features=0)
