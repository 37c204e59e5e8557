"""Arrays spread over the devices of two processes come out whole in both."""

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

HOST = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rtdlm.checkpoint.tree import flatten_tree

jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
split, whole = NamedSharding(mesh, PartitionSpec("x")), NamedSharding(mesh, PartitionSpec())
make = lambda: {"w": jnp.arange(16.0).reshape(8, 2), "key": jax.random.key(3), "n": jnp.int32(7)}
tree = jax.jit(make, out_shardings={"w": split, "key": whole, "n": whole})()
assert not tree["w"].is_fully_addressable
flat = flatten_tree(tree)
assert flat["w"].tobytes() == np.arange(16, dtype=np.float32).tobytes()
assert flat["key"].tobytes() == np.asarray(jax.random.key_data(jax.random.key(3))).tobytes()
assert flat["n"] == 7 and flat["n"].shape == () and flat["w"].shape == (8, 2)
print("whole")
"""


def test_arrays_spread_over_hosts_are_gathered() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, address, str(index)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [host.communicate(timeout=120) for host in hosts]
    assert [output.splitlines()[-1:] for output, _ in outputs] == [["whole"]] * 2, outputs
