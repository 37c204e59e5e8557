"""The manifest: what a complete checkpoint directory holds, and whether it still does.

manifest.json   {"format": 1, "step": 100, "best": false, "files": {NAME: {bytes, sha256}}}
COMMITTED       the SHA-256 of manifest.json; written last, so what has none is half-written

A directory is complete when the marker vouches for the manifest and the manifest for the files.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rtdlm.disk import FileRecord, hash_file, write_file

FORMAT = 1
MANIFEST = "manifest.json"
MARKER = "COMMITTED"


class Manifest(NamedTuple):
    """Optimizer step, whether its held-out loss was the best so far, and every file."""

    step: int
    best: bool
    files: Mapping[str, FileRecord]


class DamageError(Exception):
    """Why a checkpoint directory cannot be used, as the end of a sentence."""


def commit(directory: Path, manifest: Manifest) -> None:
    """Writes the manifest, then the marker that makes `directory` a complete checkpoint."""
    files = {name: record._asdict() for name, record in manifest.files.items()}
    tree = {"format": FORMAT, "step": manifest.step, "best": manifest.best, "files": files}
    record = write_file(directory / MANIFEST, json.dumps(tree, indent=1).encode())
    write_file(directory / MARKER, f"{record.sha256}\n".encode())


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a directory whose files all have the size that it says.

    Raises:
        DamageError: not committed, a file is missing or has another size, or of a newer format.
    """
    with _unreadable_is_damage():
        return _read_manifest(directory)


def verify(
    directory: Path, *, prefixes: Collection[str] = ("",), share: slice = slice(None)
) -> Manifest:
    """`read_manifest`, and the SHA-256 of every file whose name starts with one of `prefixes`.

    Several processes may take a `share` of the files each, by their order.

    Raises:
        DamageError: as `read_manifest`, or the contents changed.
    """
    manifest = read_manifest(directory)
    with _unreadable_is_damage():
        for name, record in sorted(manifest.files.items())[share]:
            if name.startswith(tuple(prefixes)) and hash_file(directory / name) != record.sha256:
                raise DamageError(f"the contents of {name} changed since it was saved")
    return manifest


def _read_manifest(directory: Path) -> Manifest:
    marker = directory / MARKER
    if not marker.exists():
        raise DamageError(f"it has no {MARKER} marker, so it is half-written")
    if hash_file(directory / MANIFEST) != marker.read_bytes().decode(errors="replace").strip():
        raise DamageError(f"the contents of {MANIFEST} changed since it was saved")
    tree = json.loads((directory / MANIFEST).read_bytes())
    if tree["format"] != FORMAT:
        raise DamageError(f"it has format {tree['format']}, and this version reads format {FORMAT}")
    files = {name: FileRecord(**record) for name, record in tree["files"].items()}
    for name, record in files.items():
        size = (directory / name).stat().st_size
        if size != record.bytes:
            raise DamageError(f"{name} has {size} bytes of {record.bytes}")
    return Manifest(tree["step"], tree["best"], files)


@contextmanager
def _unreadable_is_damage() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DamageError(f"{Path(error.filename).name} is missing") from None
    except OSError as error:
        raise DamageError(
            f"{error.filename or 'a file'} is unreadable: {error.strerror}"
        ) from error
