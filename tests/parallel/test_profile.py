import jax
import pytest

from rtdlm.config import MeshConfig, UserError
from rtdlm.parallel import make_mesh
from rtdlm.parallel.collectives import KINDS
from rtdlm.parallel.profile import draw_profile, profile_collective_communication, profile_table


def test_every_kind_is_timed_at_every_size_and_drawn() -> None:
    found = profile_collective_communication(make_mesh(MeshConfig()), sizes=(1024, 8192), repeats=2)
    assert found.devices == 8
    assert {(row.kind, row.bytes) for row in found.timings} == {
        (kind, size) for kind in KINDS[:4] for size in (1024, 8192)
    }
    sent = {row.kind: row.sent for row in found.timings if row.bytes == 8192}
    assert sent == {
        "all-reduce": 2 * 7 / 8 * 8192,
        "all-gather": 7 * 8192,
        "reduce-scatter": 7 / 8 * 8192,
        "all-to-all": 7 / 8 * 8192,
    }
    for row in found.timings:
        assert row.bandwidth == row.sent / row.seconds
        assert found.latency(row.kind) <= row.seconds
    assert len(profile_table(found).splitlines()) == 2 + 8
    assert draw_profile(found).startswith(b"\x89PNG")


def test_one_device_has_nobody_to_send_to() -> None:
    with pytest.raises(UserError, match="one device has nobody to send to"):
        profile_collective_communication(make_mesh(MeshConfig(), jax.devices()[:1]))
