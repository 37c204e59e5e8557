"""The project's frame: floors, lock, Makefile, and what no committed file may say."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rtdlm

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

# ----------------------------------------------------------------------------- the import contract

DOWNWARD = "Imports run downward, floor by floor"
NO_JAX = "The lowest floors know no JAX"
APART = "No idea in modules/ knows another"


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def test_the_package_keeps_the_import_contract() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def small_house(tmp_path: Path) -> Path:
    """An empty package under the project's own contract."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    rooms = "config disk data models training modules/graph modules/primitives"
    for room in rooms.split():
        (tmp_path / "rtdlm" / room).mkdir(parents=True)
    for folder in [tmp_path / "rtdlm", *(tmp_path / "rtdlm").rglob("*/")]:
        (folder / "__init__.py").touch()
    for command in ("train", "prepare"):
        (tmp_path / "rtdlm" / f"{command}.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("train.py", "import rtdlm.training"),
        ("training/loop.py", "import rtdlm.models, rtdlm.config"),
        ("modules/graph/net.py", "import rtdlm.modules.primitives, jax"),
        ("data/loader.py", "from rtdlm import __version__"),
        ("data/shards.py", "import rtdlm.disk"),
        ("disk/files.py", "import rtdlm.config"),
    ],
)
def test_the_contract_allows(small_house: Path, file: str, line: str) -> None:
    (small_house / "rtdlm" / file).write_text(line)
    result = lint_imports(small_house)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("models/stack.py", "import rtdlm.training", DOWNWARD),
        ("data/loader.py", "def load(): from rtdlm.models import stack", DOWNWARD),
        ("train.py", "import rtdlm.prepare", DOWNWARD),
        ("attic/__init__.py", "", DOWNWARD),
        ("disk/files.py", "import rtdlm.data", DOWNWARD),
        ("config/run.py", "import rtdlm.disk", DOWNWARD),
        ("config/run.py", "import jax.numpy", NO_JAX),
        ("disk/files.py", "import jax.numpy", NO_JAX),
        ("modules/primitives/norm.py", "import rtdlm.modules.graph", APART),
    ],
)
def test_the_contract_forbids(small_house: Path, file: str, line: str, broken: str) -> None:
    (small_house / "rtdlm" / file).parent.mkdir(exist_ok=True)
    (small_house / "rtdlm" / file).write_text(line)
    result = lint_imports(small_house)
    assert result.returncode == 1
    assert re.findall(r"^(.+) BROKEN", result.stdout, re.M) == [broken]


@pytest.mark.parametrize("room", ["config", "disk"])
def test_the_lowest_floors_start_without_jax(room: str) -> None:
    heavy = "{'jax', 'haiku', 'optax', 'flax'}"
    code = f"import sys, rtdlm.{room}; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


# ----------------------------------------------------------------------------- the committed files


def committed_files() -> list[Path]:
    """What git holds or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.skip("this is not a git checkout")
    return [path for name in result.stdout.splitlines() if (path := ROOT / name).is_file()]


def test_no_source_file_is_long() -> None:
    sources = [path for path in committed_files() if path.suffix == ".py"]
    assert sources
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in sources}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


# A package index or mirror, or somebody's home.
LOCAL = re.compile(
    r"https?://\S*/simple\b|(?:index-url|find-links|trusted-host)[ =]+[\w:/]*[/.]\S*"
    r"|(?:/home|/Users)/\w+/|" + re.escape(f"{Path.home()}/") + "|" + re.escape(f"{ROOT}/")
)


def test_no_committed_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    found = {}
    for path in committed_files():
        if hits := LOCAL.findall(path.read_bytes().decode(errors="replace")):
            found[str(path.relative_to(ROOT))] = hits
    assert found == {}


@pytest.mark.parametrize(
    "text",
    [
        "--index-" + "url https://mirror.example.org/pypi",
        "extra-index-" + "url = file:///opt/packages",
        "see https://mirror.example.org" + "/simple for more",
        f"python {ROOT}/train.py",
    ],
)
def test_the_search_for_local_names_finds(text: str) -> None:
    assert LOCAL.search(text)


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    source = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert re.findall(r'^__version__ = "(.+)"$', source, re.M) == [rtdlm.__version__]


# --------------------------------------------------------------------------------------- the locks

LOCKS = {
    "requirements.lock.txt": ("data", "dev"),
    "requirements.cpu.lock.txt": ("data",),
    "requirements.gpu.lock.txt": ("data", "gpu"),
    "requirements.tpu.lock.txt": ("data", "tpu"),
}


def entries(lock: str) -> list[str]:
    """The requirements of a lock file, each with the lines that belong to it."""
    return re.findall(r"^\w(?:.*\n)(?:[ ].*\n)*", (ROOT / lock).read_text(), re.M)


def pins(lock: str, python: str) -> dict[str, str]:
    """The version of every package that the lock gives a Python on Linux."""
    machine = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": "linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }
    pinned = [Requirement(entry.partition("\\\n")[0]) for entry in entries(lock)]
    chosen = [pin for pin in pinned if pin.marker is None or pin.marker.evaluate(machine)]
    assert len({pin.name for pin in chosen}) == len(chosen), "a package is pinned twice"
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in chosen}


@pytest.mark.parametrize("python", ["3.11.0", "3.12.1", "3.13.0"])
@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_gives_what_the_project_asks_for(lock: str, python: str) -> None:
    pinned = pins(lock, python)
    asked = list(PROJECT["project"]["dependencies"])
    for extra in LOCKS[lock]:
        asked += PROJECT["project"]["optional-dependencies"][extra]
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        assert name in pinned
        assert requirement.specifier.contains(pinned[name]), f"{requirement}: {pinned[name]}"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_of_the_lock_carries_its_hashes(lock: str) -> None:
    assert [e for e in entries(lock) if not re.search(r"--hash=sha256:[0-9a-f]{64}", e)] == []


@pytest.mark.parametrize("python", ["3.11.0", "3.12.1"])
@pytest.mark.parametrize("lock", ["requirements.gpu.lock.txt", "requirements.tpu.lock.txt"])
def test_an_accelerator_changes_no_other_version(lock: str, python: str) -> None:
    everywhere = pins("requirements.cpu.lock.txt", python)
    there = pins(lock, python)
    assert {name: there[name] for name in everywhere} == everywhere
    assert pins("requirements.lock.txt", python).items() >= everywhere.items()


# ------------------------------------------------------------------------------------ the Makefile

TARGETS = (
    "install",
    "install-dev",
    "test",
    "test-cov",
    "lint",
    "format",
    "docker-build",
    "train-tiny",
    "validate-model",
)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `make` as a user does, even when these tests were started by `make test`."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS")
    env = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


def test_make_alone_lists_every_target() -> None:
    listed = re.findall(r"^  make ([a-z-]+) +\w", make().stdout, re.M)
    assert set(TARGETS) <= set(listed)


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_how_to(target: str) -> None:
    result = make("--dry-run", "--always-make", target)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        ("", "No Python 3.11 or newer was found on the path: install one, or name it"),
        ("no-such-python", "PYTHON=no-such-python is not a Python 3.11 or newer: name one"),
        ("false", "PYTHON=false is not a Python 3.11 or newer: name one"),
    ],
)
def test_make_says_when_python_is_missing(tmp_path: Path, python: str, sentence: str) -> None:
    result = make("install", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    assert result.returncode == 2
    expected = f"{sentence} with 'make PYTHON=/path/to/python3.12 ...'."
    assert result.stderr.splitlines()[0] == expected
    assert not (tmp_path / "venv").exists()


# ------------------------------------------------------------------------------- the training image


def stages() -> dict[str, str]:
    """The Dockerfile's stages, each with its base and its instructions."""
    text = (ROOT / "Dockerfile.train").read_text()
    return {
        name: f"{base}\n{body}"
        for base, name, body in re.findall(r"^FROM (\S+) AS (\S+)\n((?:(?!FROM).*\n)*)", text, re.M)
    }


@pytest.mark.parametrize("accelerator", ["cpu", "gpu", "tpu"])
def test_the_image_runs_as_nobody_special_from_the_lock(accelerator: str) -> None:
    image = stages()[accelerator].strip().splitlines()
    assert image[0] == f"{accelerator}-requirements"
    assert re.fullmatch(r"USER [1-9][0-9]*", image[-1])
    requirements = stages()[f"{accelerator}-requirements"]
    # The layer may depend on nothing but the lock, or every edit would install JAX again.
    assert re.findall(r"^COPY (\S+)", requirements, re.M) == [
        f"requirements.{accelerator}.lock.txt"
    ]
    assert "--require-hashes" in requirements


# ------------------------------------------------------------------------------- how the tests run


def test_there_are_eight_devices() -> None:
    assert jax.device_count() == 8


def test_a_silent_promotion_of_rank_raises() -> None:
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones(3) + jnp.ones((2, 3))


def test_a_silent_promotion_of_dtype_raises() -> None:
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(3, jnp.bfloat16) + jnp.ones(3, jnp.float32)


def test_a_jax_transformation_around_a_haiku_module_raises() -> None:
    def network(x: jax.Array) -> jax.Array:
        return jax.vmap(hk.Linear(2))(x)

    with pytest.raises(ValueError, match="use a Haiku overloaded transform"):
        hk.transform(network).init(jax.random.key(0), jnp.ones((3, 2)))
