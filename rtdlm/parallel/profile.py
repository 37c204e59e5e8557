"""How long collectives take on the devices at hand: latency and bandwidth by size.

Each is compiled alone over all devices of a mesh and timed. A size is that of one device's operand;
bandwidth is what one device sends around a ring (`ring_bytes`) over the time, so that kinds can be
compared and held against a link's data sheet.

    time ~ latency + sent / bandwidth
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rtdlm.config import UserError
from rtdlm.parallel.collectives import ring_bytes

SIZES = tuple(4**power * 1024 for power in range(8))
"""1 KiB to 16 MiB, of one device's operand [bytes]."""
REPEATS = 10
WIDTH = 4


@dataclass(frozen=True)
class Timing:
    """One kind at one size."""

    kind: str
    bytes: int
    """Of one device's operand."""
    seconds: float
    """Median over repeats."""
    sent: float
    """By one device [bytes]."""

    @property
    def bandwidth(self) -> float:
        """What one device sent a second [bytes/s]."""
        return self.sent / self.seconds


@dataclass(frozen=True)
class CommunicationProfile:
    """Timings over the devices of a mesh."""

    devices: int
    kind: str
    """What JAX calls the devices."""
    timings: tuple[Timing, ...]

    def latency(self, kind: str) -> float:
        """The shortest time of `kind` at any size [seconds]."""
        return min(row.seconds for row in self.timings if row.kind == kind)

    def bandwidth(self, kind: str) -> float:
        """The best of `kind` at any size [bytes/s]."""
        return max(row.bandwidth for row in self.timings if row.kind == kind)


def profile_collective_communication(
    mesh: Mesh, *, sizes: Sequence[int] = SIZES, repeats: int = REPEATS
) -> CommunicationProfile:
    """Times all-reduce, all-gather, reduce-scatter and all-to-all over all devices of `mesh`.

    Args:
        mesh: devices that can run; fake ones share one processor, and so say what its memory does.
        sizes: of one device's operand, rounded up to a multiple of the devices [bytes].
        repeats: runs of each, of which the median counts; one more warms up.

    Raises:
        UserError: there is only one device.
    """
    count = mesh.size
    if count < 2:
        raise UserError(
            "one device has nobody to send to; profile on two or more, or on fake ones with "
            "--devices cpu:8"
        )
    timings = []
    for kind, function in _functions(mesh).items():
        for size in sizes:
            numbers = -(-size // (WIDTH * count)) * count
            lies = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            x = jax.device_put(jnp.ones((count * numbers,), jnp.float32), lies)
            operand = WIDTH * numbers
            result = {"all-gather": operand * count, "reduce-scatter": operand / count}
            sent = ring_bytes(kind, result.get(kind, operand), count)
            timings.append(Timing(kind, operand, _time(function, x, repeats), sent))
    return CommunicationProfile(count, mesh.devices.flat[0].device_kind, tuple(timings))


def profile_table(profile: CommunicationProfile) -> str:
    """All timings, for a terminal."""
    lines = [
        f"{profile.devices} x {profile.kind}",
        f"{'':16} {'operand [KiB]':>14} {'time [us]':>12} {'sent [GB/s]':>12}",
    ]
    for row in profile.timings:
        lines.append(
            f"{row.kind:16} {row.bytes / 1024:14,.0f} {1e6 * row.seconds:12,.1f} "
            f"{row.bandwidth / 1e9:12,.3f}"
        )
    return "\n".join(lines)


def draw_profile(profile: CommunicationProfile) -> bytes:
    """Time and bandwidth by size, as PNG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure = Figure(figsize=(8.0, 3.4), dpi=150, layout="constrained")
        time, speed = figure.subplots(1, 2)
        for mark, kind in zip("osD^", _kinds(profile), strict=True):
            rows = [row for row in profile.timings if row.kind == kind]
            sizes = [row.bytes / 1024 for row in rows]
            time.plot(sizes, [1e6 * row.seconds for row in rows], marker=mark, ms=4, label=kind)
            speed.plot(sizes, [row.bandwidth / 1e9 for row in rows], marker=mark, ms=4, label=kind)
        for axes, title in ((time, "Time [us]"), (speed, "Sent by one device [GB/s]")):
            axes.set(title=title, xlabel="operand of one device [KiB]", xscale="log", yscale="log")
        time.legend(fontsize=8)
        figure.suptitle(f"Collectives over {profile.devices} x {profile.kind}", fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _kinds(profile: CommunicationProfile) -> list[str]:
    return list(dict.fromkeys(row.kind for row in profile.timings))


def _functions(mesh: Mesh) -> dict[str, Callable[[jax.Array], jax.Array]]:
    axes = mesh.axis_names
    split, whole = PartitionSpec(axes), PartitionSpec()
    bodies: dict[str, tuple[Callable[[jax.Array], jax.Array], PartitionSpec]] = {
        "all-reduce": (partial(jax.lax.psum, axis_name=axes), whole),
        "all-gather": (partial(jax.lax.all_gather, axis_name=axes, tiled=True), whole),
        "reduce-scatter": (partial(jax.lax.psum_scatter, axis_name=axes, tiled=True), split),
        "all-to-all": (
            partial(jax.lax.all_to_all, axis_name=axes, split_axis=0, concat_axis=0, tiled=True),
            split,
        ),
    }
    return {
        kind: jax.jit(
            jax.shard_map(body, mesh=mesh, in_specs=split, out_specs=out, check_vma=False)
        )
        for kind, (body, out) in bodies.items()
    }


def _time(function: Callable[[jax.Array], jax.Array], x: jax.Array, repeats: int) -> float:
    function(x).block_until_ready()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        function(x).block_until_ready()
        times.append(perf_counter() - start)
    return median(times)
