"""Compiled programs are kept on the disk, so that only the first start of a program compiles it.

JAX does the keeping (its persistent compilation cache): an entry's name is a hash of the program,
the compiler's version and options, and the devices, down to the instructions that a processor has,
so that a directory may be shared by unlike machines. This file says where, what and how much.

    RTDLM_CACHE_DIR=/scratch/me    a place other than ~/.cache/rtdlm (or $XDG_CACHE_HOME/rtdlm)
    RTDLM_CACHE_DIR=off            nothing is kept
    JAX_COMPILATION_CACHE_DIR=...  JAX's own setting goes before; then nothing is changed here

An entry is code that the next start runs: whoever can write to the directory can run programs as
its readers, so it is made for its owner alone.
"""

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Any

import jax

VARIABLE, OFF = "RTDLM_CACHE_DIR", ("", "off")
MAX_BYTES = 2 << 30
# On a disk with less room than this a large program's entry might be cut short.
NEEDED_BYTES = 256 << 20


def keep_compiled_programs() -> str | None:
    """Turns the cache on for this process, unless the user chose otherwise.

    Returns:
        None, or a sentence that says why nothing can be kept; everything works without.
    """
    settings: Any = jax.config  # whose type names none of them
    if settings.jax_compilation_cache_dir is not None or not settings.jax_enable_compilation_cache:
        return None
    try:
        directory = cache_directory(os.environ)
    except RuntimeError:
        missing = "there is no home directory"
        return f"compiled programs are not kept: {missing}; set {VARIABLE} (or off)"
    if directory is None:
        return None
    problem = _problem(directory)
    if problem is not None:
        return (
            f"compiled programs are not kept in {directory}: {problem}; every start compiles "
            f"again until that is mended or {VARIABLE} names another directory (or off)"
        )
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # JAX's default passes over what compiles in less than a second; a start has many of these.
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return None


def cache_directory(environment: Mapping[str, str]) -> Path | None:
    """Where `environment` wants compiled programs; None to keep none.

    Raises:
        RuntimeError: that is in the home directory and there is none.
    """
    chosen = environment.get(VARIABLE)
    if chosen in OFF:
        return None
    if chosen is not None:
        return Path(chosen).expanduser().absolute() / "xla"
    # A relative XDG_CACHE_HOME counts as unset (XDG Base Directory Specification).
    home = Path(environment.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache").expanduser()) / "rtdlm" / "xla"


def prune(directory: Path, *, max_bytes: int) -> None:
    """Removes what was used longest ago until the rest has at most `max_bytes`.

    JAX can do this by itself, but then takes a lock for every read and stumbles for ever over an
    entry that a killed process left half written.
    """
    found = []
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # another process may prune as well
            status = path.stat()
            if S_ISREG(status.st_mode):
                # Without access times on the file system: when it was written.
                found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    surplus = sum(size for _, size, _ in found) - max_bytes
    for _, size, path in sorted(found):
        if surplus <= 0:
            break
        path.unlink(missing_ok=True)
        surplus -= size


def _problem(directory: Path) -> str | None:
    """Makes `directory` ready; or says what is wrong with it."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        prune(directory, max_bytes=MAX_BYTES)
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return error.strerror or str(error)
    if not os.access(directory, os.W_OK | os.X_OK):
        return "it may not be written to"
    if free < NEEDED_BYTES:
        return f"its disk has {free / 1e6:,.0f} MB left, less than {NEEDED_BYTES / 1e6:,.0f} MB"
    return None
