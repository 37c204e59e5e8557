"""Finds the files that an argument such as `--text` names.

    FILE              that file; it must hold text
    DIRECTORY         every file below it, sorted; hidden files, empty files and files that are not
                      text are passed over and counted
    GLOB              the files and directories it matches, read as in a directory
    python-library    the Python installation's own library sources (without tests and character
                      tables) and the topics of `pydoc`: code and prose on every machine

`.jsonl` holds one `{"text": ...}` a line, `.parquet` a column `text`; anything else is text. Each
may be compressed (`.gz`, `.zst`), except parquet, which compresses itself.
"""

import glob
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rtdlm.config.errors import UserError

PYTHON_LIBRARY = "python-library"
Kind = Literal["text", "jsonl", "parquet", "topics"]

_COMPRESSION = ("", ".gz", ".zst")
_KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
# Tests hold deliberate nonsense, `encodings` tables; the topics are read as prose instead.
_NOT_LIBRARY = frozenset({
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "encodings",
    "pydoc_data",
})  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One file of text.

    Attributes:
        name: what messages and the plan call it.
        path: where it is.
        kind: how documents are found in it.
        named: the user named this very file, so that it must be text.
        size: of the file [bytes].
        mtime_ns: when it last changed [nanoseconds].
    """

    name: str
    path: Path
    kind: Kind
    named: bool
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Found:
    """The sources behind some arguments and how many files were passed over, by reason."""

    sources: tuple[Source, ...]
    passed_over: Counter[str]


def find_sources(text: Sequence[str], *, exclude: Path | None = None) -> Found:
    """The files that `text` names, each once, in order of the arguments, then of their names.

    Args:
        text: files, directories, globs or `python-library`.
        exclude: a directory whose files are left out: the one that is written to.

    Raises:
        UserError: nothing was named, a path does not exist, or a named file is empty.
    """
    if not text:
        raise UserError("no text was named; give files, directories, globs or `python-library`")
    passed_over: Counter[str] = Counter()
    sources: dict[Path, Source] = {}
    hidden_place = exclude.resolve() if exclude is not None else None
    for argument in text:
        for source in _expand(argument, passed_over):
            place = source.path.resolve()
            if hidden_place is None or hidden_place not in place.parents:
                sources.setdefault(place, source)
    if not sources:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(passed_over.items()))
        raise UserError(
            f"no text in {', '.join(text)} (passed over: {reasons or 'nothing'}); name a file or "
            "directory with text"
        )
    return Found(tuple(sources.values()), passed_over)


def describe(path: Path, *, name: str, named: bool) -> Source:
    """The source at `path`, with its size and time as they are now."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}; check the path") from None
    return Source(name, path, _kind(path), named, status.st_size, status.st_mtime_ns)


def _kind(path: Path) -> Kind:
    suffixes = path.suffixes
    if suffixes and suffixes[-1] in _COMPRESSION:
        suffixes = suffixes[:-1]
    return _KINDS.get(suffixes[-1], "text") if suffixes else "text"


def _expand(argument: str, passed_over: Counter[str]) -> Iterator[Source]:
    if argument == PYTHON_LIBRARY:
        return _python_library(passed_over)
    if not argument:
        raise UserError("a path of text is empty; name a file or a directory")
    path = Path(argument).expanduser()
    if path.is_dir():
        return _walk(path, passed_over)
    if path.exists():
        return iter([_named_file(path)])
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(argument) else []
    if not matches:
        raise UserError(
            f"{argument} does not exist; name a file, a directory, a glob or `{PYTHON_LIBRARY}`"
        )
    return _matches(matches, passed_over)


def _named_file(path: Path) -> Source:
    source = describe(path, name=str(path), named=True)
    if source.size == 0:
        raise UserError(f"{path} is empty; name a file with text")
    return source


def _matches(matches: Sequence[str], passed_over: Counter[str]) -> Iterator[Source]:
    for match in map(Path, matches):
        if match.is_dir():
            yield from _walk(match, passed_over)
        else:
            yield from _one(match, str(match), passed_over)


def _walk(root: Path, passed_over: Counter[str]) -> Iterator[Source]:
    """Files below `root`, a directory's own files before those of its directories."""

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}; leave it out")

    for directory, subdirectories, files in os.walk(root, onerror=fail):
        hidden = sum(name.startswith(".") for name in [*subdirectories, *files])
        passed_over.update({"hidden": hidden} if hidden else {})
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(directory) / name
                yield from _one(path, str(path), passed_over)


def _one(path: Path, name: str, passed_over: Counter[str]) -> Iterator[Source]:
    if not path.is_file():
        passed_over["not a file"] += 1  # A broken link, a socket, a pipe.
        return
    source = describe(path, name=name, named=False)
    if source.size == 0:
        passed_over["empty"] += 1
        return
    yield source


def _python_library(passed_over: Counter[str]) -> Iterator[Source]:
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "os.py").is_file():
        raise UserError(
            f"this Python installation has no library sources in {root}; name other text"
        )
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = sorted(set(subdirectories) - _NOT_LIBRARY)
        for name in sorted(files):
            path = Path(directory) / name
            if path.suffix == ".py" and not name.startswith("_sysconfigdata"):
                library_name = f"{PYTHON_LIBRARY}:{path.relative_to(root).as_posix()}"
                yield from _one(path, library_name, passed_over)
    topics = root / "pydoc_data" / "topics.py"
    if topics.is_file():
        source = describe(topics, name=f"{PYTHON_LIBRARY}:pydoc_data.topics", named=False)
        yield replace(source, kind="topics")
