"""How every test runs: on eight fake devices, with strict shapes and dtypes.

The environment is inherited by the commands that tests start; the settings are not, so that those
commands run as a user's do, on one device.
"""

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# JAX reads these when it is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Programs of tests are compiled for longer than they run: one piece each, since both cores are busy
# anyway, and without the lines of Python that each operation comes from. Where there are two
# emitters of fused loops the newer takes three times as long; JAX 0.11 has only one, and ends at a
# flag it is not told of.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
TWO_EMITTERS = version("jaxlib").startswith("0.10.")
QUICK = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
QUICK += ["--xla_cpu_use_fusion_emitters=false"] if TWO_EMITTERS else []
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))
# A device waits for the others in a thread of this process. Where two collectives do not depend on
# each other devices may begin with either, and with a thread a device all would wait for ever.
os.environ.setdefault("PJRT_NPROC", "32")
# A test needs neither a screen nor the network.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import haiku as hk  # noqa: E402
import hypothesis  # noqa: E402
import jax  # noqa: E402

from rtdlm.models import tms  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
hk.config.set(check_jax_usage=True)

# `precision.compute=auto` is float32 in tests, whatever the processor has; here, since some models
# are made when their test module is imported.
tms.fastest_format = lambda: "float32"

# Tracing makes millions of objects that stay: looking through them for garbage takes a tenth of the
# time at Python's own rate.
gc.set_threshold(20_000, 10, 10)

MOST_MAPS = 25_000
"""Linux ends a process of more than 65,530 maps, and every compiled program has some."""


@pytest.fixture(autouse=True, scope="module")
def few_programs() -> Iterator[None]:
    """Lets go of the compiled programs of past modules before they are too many."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


# A first example compiles, so that its time says nothing; the same examples in every run.
hypothesis.settings.register_profile("rtdlm", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("rtdlm")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("there is no ../shared/data beside the checkout")
    return SHARED_DATA
