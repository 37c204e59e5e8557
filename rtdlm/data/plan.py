"""`plan.json`: which text a directory is prepared from, and how. Written before the first shard.

With the text as it was, the plan determines every byte of the result. That is what lets an
interrupted `prepare` go on, and a finished one return at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtdlm.config.errors import UserError
from rtdlm.data.manifest import PLAN_FILE, read_json, write_json
from rtdlm.data.sources import Source
from rtdlm.disk import hash_file


@dataclass(frozen=True)
class SourceRecord:
    """A file as it was when the plan was made.

    Attributes:
        name: what the plan calls it.
        size: [bytes].
        mtime_ns: when it last changed [nanoseconds].
        sha256: of its content, hexadecimal, or "" for a file that was passed over as no text.
    """

    name: str
    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Plan:
    """The content of `plan.json`.

    Attributes:
        arguments: of `prepare`, by name.
        sources: the files that were found, in order.
        passed_over: how many files are not part of the text, by reason.
        piece_limit: where documents are cut [characters].
        threshold: pieces whose split hash is below this are held out.
        pieces: how many there are.
        text_bytes: of all documents [bytes].
        tokenizer_sha256: of `tokenizer.json`.
    """

    arguments: Mapping[str, Any]
    sources: tuple[SourceRecord, ...]
    passed_over: Mapping[str, int]
    piece_limit: int
    threshold: int
    pieces: int
    text_bytes: int
    tokenizer_sha256: str


def write_plan(directory: Path, plan: Plan) -> None:
    """Writes `plan.json`, whole or not at all."""
    write_json(directory / PLAN_FILE, asdict(plan))


def read_plan(directory: Path) -> Plan | None:
    """The plan of a directory, or None where nothing was planned yet."""
    path = directory / PLAN_FILE
    if not path.exists():
        return None
    tree = read_json(path)
    try:
        tree["sources"] = tuple(SourceRecord(**record) for record in tree["sources"])
        return Plan(**tree)
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path} lacks or mistypes a field ({error}); remove {directory} and prepare again"
        ) from None


def record(source: Source, *, is_text: bool) -> SourceRecord:
    """What is remembered of a source."""
    sha256 = hash_file(source.path) if is_text else ""
    return SourceRecord(source.name, source.size, source.mtime_ns, sha256)


def check_arguments(directory: Path, plan: Plan, arguments: Mapping[str, Any]) -> None:
    """Raises `UserError` unless `directory` was planned with these arguments."""
    for name, value in arguments.items():
        planned = plan.arguments.get(name)
        if planned != value:
            raise UserError(
                f"{directory} was prepared with {name}={planned!r}, not {value!r}; use the same "
                "arguments, another directory, or remove this one"
            )


def match_sources(directory: Path, plan: Plan, found: Sequence[Source]) -> tuple[Source, ...]:
    """Those among the sources found now that the plan reads, with unchanged content.

    A file of the same size and time counts as unchanged; at another time, its content is compared.
    A file without text counts as unchanged while its size is.

    Raises:
        UserError: a file changed, came or went since the plan was made.
    """
    now = {source.name: source for source in found}
    planned = {record.name: record for record in plan.sources}
    for name in [*planned, *now]:
        if name not in now:
            raise _changed(directory, f"{name} is gone")
        if name not in planned:
            raise _changed(directory, f"{name} is new")
        if not _same(now[name], planned[name]):
            raise _changed(directory, f"{name} has other content")
    return tuple(now[record.name] for record in plan.sources if record.sha256)


def _same(source: Source, planned: SourceRecord) -> bool:
    if source.size != planned.size:
        return False
    if source.mtime_ns == planned.mtime_ns or not planned.sha256:
        return True
    return hash_file(source.path) == planned.sha256


def _changed(directory: Path, what: str) -> UserError:
    return UserError(
        f"the text changed since {directory} was prepared from it: {what}; remove {directory} or "
        "choose another directory to prepare it anew"
    )
