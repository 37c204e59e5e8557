"""Of arrays spread over two real processes each holds its part; what both have, one writes."""

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

from rtdlm.checkpoint.tree import flatten_own

jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
split, whole = NamedSharding(mesh, PartitionSpec("x")), NamedSharding(mesh, PartitionSpec())
make = lambda: {"w": jnp.arange(16.0).reshape(8, 2), "key": jax.random.key(3), "n": jnp.int32(7)}
tree = jax.jit(make, out_shardings={"w": split, "key": whole, "n": whole})()
assert not tree["w"].is_fully_addressable
own = flatten_own(tree)
first = 4 * jax.process_index()
parts = [own.pop(f"w[{row}:{row + 2},0:2 of 8,2]") for row in (first, first + 2)]
expected = np.arange(16, dtype=np.float32).reshape(8, 2)[first : first + 4]
assert np.concatenate(parts).tobytes() == expected.tobytes()
if jax.process_index() == 0:
    assert own.pop("key").tobytes() == np.asarray(jax.random.key_data(jax.random.key(3))).tobytes()
    n = own.pop("n")
    assert n == 7 and n.shape == ()
assert not own, own
print("all")
"""


def test_every_number_is_in_one_process() -> None:
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
    assert [output.splitlines()[-1:] for output, _ in outputs] == [["all"]] * 2, outputs
