"""Compiled programs are found again by the next process; no setting or disk gets in a run's way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from rtdlm.parallel import compilation, keep_compiled_programs
from rtdlm.parallel.compilation import cache_directory, prune

# Compiles one program as a command would, and tells what came of it.
SCRIPT = """
import json
from collections import Counter
import jax
from rtdlm.parallel import keep_compiled_programs

told, events = keep_compiled_programs(), Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))
x = jax.jit(lambda x: jax.numpy.sin(x) @ x.T)(jax.numpy.eye(3) + 0.1)
print(json.dumps([told, events["cache_misses"] > 0, events["cache_hits"] > 0, repr(x.tolist())]))
"""


class Outcome(NamedTuple):
    told: str | None
    wrote: bool
    found: bool
    result: str


def start(**environment: str) -> Outcome:
    """What a fresh process sees under exactly these of the settings."""
    settings = ("RTDLM_", "JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "XDG_")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(settings)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=inherited | environment, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    return Outcome(*json.loads(done.stdout))


def entries(directory: Path) -> list[Path]:
    return list(directory.rglob("*-cache"))


def test_the_second_start_finds_what_the_first_compiled(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    first, second = start(**home), start(**home)
    assert (first.told, first.wrote, first.found) == (None, True, False)
    assert (second.told, second.wrote, second.found) == (None, False, True)
    assert first.result == second.result
    directory = tmp_path / ".cache" / "rtdlm" / "xla"
    assert entries(directory)
    assert directory.stat().st_mode & 0o777 == 0o700, "what is in it is run: nobody else may write"


def test_jax_own_setting_goes_before(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    start(
        RTDLM_CACHE_DIR=str(ours), JAX_COMPILATION_CACHE_DIR=str(theirs),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
    )  # fmt: skip
    assert entries(theirs)
    assert not ours.exists()


@pytest.mark.parametrize(
    "setting", [{"RTDLM_CACHE_DIR": "off"}, {"JAX_ENABLE_COMPILATION_CACHE": "0"}], ids=str
)
def test_it_can_be_switched_off(setting: dict[str, str], tmp_path: Path) -> None:
    assert start(HOME=str(tmp_path), **setting)[:3] == (None, False, False)
    assert list(tmp_path.iterdir()) == []


def test_a_setting_made_in_python_stays() -> None:
    before = jax.config.jax_compilation_cache_dir
    assert before is not None, "tests/conftest.py sets it"
    assert keep_compiled_programs() is None
    assert jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"HOME": "/homes/me"}, "/homes/me/.cache/rtdlm/xla"),
        ({"HOME": "/homes/me", "XDG_CACHE_HOME": "/fast"}, "/fast/rtdlm/xla"),
        ({"HOME": "/homes/me", "XDG_CACHE_HOME": "relative"}, "/homes/me/.cache/rtdlm/xla"),
        ({"HOME": "/homes/me", "XDG_CACHE_HOME": ""}, "/homes/me/.cache/rtdlm/xla"),
        ({"XDG_CACHE_HOME": "/fast", "RTDLM_CACHE_DIR": "/scratch/me"}, "/scratch/me/xla"),
        ({"HOME": "/homes/me", "RTDLM_CACHE_DIR": "~/here"}, "/homes/me/here/xla"),
        ({"XDG_CACHE_HOME": "/fast", "RTDLM_CACHE_DIR": ""}, None),
        ({"XDG_CACHE_HOME": "/fast", "RTDLM_CACHE_DIR": "off"}, None),
    ],
)
def test_where_programs_are_kept(
    environment: dict[str, str], directory: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", environment.get("HOME", "/nowhere"))
    assert cache_directory(environment) == (None if directory is None else Path(directory))


def test_a_place_that_is_no_directory_is_one_sentence(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.touch()
    outcome = start(RTDLM_CACHE_DIR=str(place))
    assert outcome.told == (
        f"compiled programs are not kept in {place}/xla: Not a directory; every start compiles "
        "again until that is mended or RTDLM_CACHE_DIR names another directory (or off)"
    )
    assert not outcome.wrote and outcome.result, "and the program ran"


def test_no_home_directory_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        told = keep_compiled_programs()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert told == (
        "compiled programs are not kept: there is no home directory; set RTDLM_CACHE_DIR (or off)"
    )


def test_a_full_disk_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = shutil.disk_usage(tmp_path)._replace(free=255 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    problem = compilation._problem(tmp_path)
    assert problem == "its disk has 267 MB left, less than 268 MB"


def test_a_directory_of_somebody_else_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests may run as root, whom no permission stops.
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert compilation._problem(tmp_path) == "it may not be written to"


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    used = {"a": (50, 10), "below/b": (20, 30), "c": (40, 40), "below/d": (10, 20)}
    for name, (read, written) in used.items():
        path = tmp_path / name
        path.write_bytes(bytes(100))
        os.utime(path, (read, written))

    def left() -> list[str]:
        return sorted(name for name in used if (tmp_path / name).exists())

    prune(tmp_path, max_bytes=400)
    assert left() == ["a", "below/b", "below/d", "c"]
    prune(tmp_path, max_bytes=399)
    assert left() == ["a", "below/b", "c"]
    prune(tmp_path, max_bytes=250)
    assert left() == ["a", "c"]
    prune(tmp_path, max_bytes=0)
    assert left() == []
