import pytest

from rtdlm.parallel.accelerators import by_name
from rtdlm.parallel.collectives import Collective
from rtdlm.parallel.roofline import bandwidth, roofline

AXES = {"data": 4, "fsdp": 2, "expert": 1, "context": 1, "tensor": 4}


def reduce_over(*axes: str) -> Collective:
    return Collective("all-reduce", axes, 4, 1, 1e9)


def test_times_are_work_over_the_data_sheet() -> None:
    v5e = by_name("v5e")
    assert v5e is not None
    found = roofline(
        v5e, compute="bfloat16", flops=197e12, useful_flops=98.5e12, memory_bytes=819e9 / 4,
        collectives=[reduce_over("data")], axis_sizes=AXES,
    )  # fmt: skip
    assert found is not None
    assert (found.compute, found.memory, found.communication) == (1.0, 0.25, 0.01)
    assert found.overlapped == 1.0
    assert found.serial == pytest.approx(1.26)
    assert found.bound == "arithmetic"
    assert found.mfu == (pytest.approx(0.5 / 1.26), 0.5)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (("tensor",), 450e9),  # the four nearest
        (("fsdp",), 450e9),  # within eight
        (("data",), 50e9),  # over nodes
        ((), 50e9),
    ],
)
def test_gpus_leave_the_node_where_a_group_does(axes: tuple[str, ...], expected: float) -> None:
    h100 = by_name("h100")
    assert h100 is not None
    assert bandwidth(h100, reduce_over(*axes), axis_sizes=AXES) == expected


def test_a_processor_has_no_roofline() -> None:
    cpu = by_name("cpu")
    assert cpu is not None
    assert (
        roofline(
            cpu, compute="float32", flops=1, useful_flops=1, memory_bytes=1, collectives=[],
            axis_sizes=AXES,
        )
        is None
    )  # fmt: skip
