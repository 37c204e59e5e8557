"""Measured numbers: the one format that benchmarks and studies write and that documents show.

A result file holds the machine and a list of rows

    name, value, unit, bar, holds, n, spread, command, commit

and stands in `benchmarks/results/NAME.json` or `studies/results/NAME.json`. Documents show it
between two comments, which `python -m benchmarks tables` fills:

    <!-- results:NAME -->           a row a result
    <!-- results:NAME/PREFIX -->    only the results whose name begins with PREFIX
    <!-- results:NAME as grid -->   names split at their last "/": a row a case, a column a quantity
    <!-- /results -->               the end
"""

import json
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from os import cpu_count
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal, NamedTuple, Self

from rtdlm.config.errors import UserError
from rtdlm.disk import make_directory, replace_file

Bar = tuple[Literal[">=", "<="], float]
_MARKED = re.compile(
    r"(?P<start><!-- results:(?P<name>[^\s/]+)(?:/(?P<prefix>.+?))?(?P<grid> as grid)? -->\n)"
    r".*?(?P<end><!-- /results -->)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Result:
    """One measured number."""

    name: str
    """What was measured, from the general to the particular: "small, 1 thread/ours/wall"."""
    value: float
    """The middle of the measurements: a benchmark's median, a study's mean."""
    unit: str
    bar: Bar | None = None
    """What the value has to reach; None where nothing was promised."""
    n: int = 1
    """Measurements behind the value: repeats or seeds."""
    spread: tuple[float, float] | None = None
    """Smallest and largest measurement, in `unit`; None with one measurement."""
    command: str | None = None
    """What a person types to measure it again."""
    commit: str | None = None
    """Short hash of the code, with a "+" when files differed from it; None outside git."""

    def __post_init__(self) -> None:
        assert self.n >= 1, self
        assert self.spread is None or self.spread[0] <= self.value <= self.spread[1], self

    @property
    def holds(self) -> bool | None:
        """Whether the value reaches its bar; None without one."""
        if self.bar is None:
            return None
        sign, limit = self.bar
        return self.value >= limit if sign == ">=" else self.value <= limit

    @classmethod
    def median(
        cls, name: str, samples: Sequence[float], unit: str, *, bar: Bar | None = None
    ) -> Self:
        """The median of repeated measurements, with its smallest and largest."""
        return cls(name, median(samples), unit, bar, len(samples), _spread(samples))

    @classmethod
    def mean(
        cls, name: str, samples: Sequence[float], unit: str, *, bar: Bar | None = None
    ) -> Self:
        """The mean over seeds, with the smallest and largest."""
        spread = _spread(samples)
        value = mean(samples) if spread is None else min(max(mean(samples), spread[0]), spread[1])
        return cls(name, value, unit, bar, len(samples), spread)


class ResultFile(NamedTuple):
    """The content of a result file."""

    machine: Mapping[str, Any]
    results: tuple[Result, ...]


def machine() -> dict[str, Any]:
    """What the numbers were measured on: processor, cores, versions and date; no names or paths."""
    packages = {name: _version(name) for name in ("jax", "torch")}
    return {
        "cpu": _cpu_model(),
        "cores": cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **packages,
        "date": datetime.now(UTC).date().isoformat(),
    }


def commit(root: Path) -> str | None:
    """The short hash that `root` is at, with "+" if sources differ; None where git knows nothing.

    Result files and documents do not count: measuring is what changes them.
    """
    measured = (":!benchmarks/results", ":!studies/results", ":!docs")
    head = _git(root, "rev-parse", "--short", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", ".", *measured)
    return None if head is None else head + ("+" if changed else "")


def stamped(results: Iterable[Result], *, command: str, root: Path) -> list[Result]:
    """`results` with the command that measured them and the commit of `root`."""
    at = commit(root)
    return [replace(result, command=command, commit=at) for result in results]


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Writes a result file as a whole, with this machine's description.

    Raises:
        StorageError: the disk refused.
    """
    _write(path, results, machine())


def add_results(path: Path, results: Iterable[Result]) -> None:
    """Writes `results` among the others of a result file; one measured again keeps its place.

    The file then tells both days.

    Raises:
        UserError: see `require_same_machine`.
        StorageError: the disk refused.
    """
    file, own = require_same_machine(path), machine()
    first = str(file.machine["date"]).partition(" to ")[0]
    date = own["date"] if first == own["date"] else f"{first} to {own['date']}"
    again = {result.name: result for result in results}
    kept = [again.pop(result.name, result) for result in file.results]
    _write(path, [*kept, *again.values()], own | {"date": date})


def require_same_machine(path: Path) -> ResultFile:
    """The result file at `path`, whose rows may stand beside some that are measured now.

    Raises:
        UserError: it is none, or is of another machine or other versions.
    """
    file, own = read_results(path), machine()
    apart = [
        name for name in ("cpu", "cores", "python", "jax") if file.machine.get(name) != own[name]
    ]
    if apart:
        told = ", ".join(f"{name} {file.machine.get(name)} (now {own[name]})" for name in apart)
        raise UserError(
            f"{path} was measured elsewhere: {told}; rows of two machines do not stand side by "
            "side, so measure all of them here or write to another file"
        )
    return file


def _write(path: Path, results: Iterable[Result], on: Mapping[str, Any]) -> None:
    rows = [asdict(result) | {"holds": result.holds} for result in results]
    make_directory(path.parent)
    text = json.dumps({"machine": on, "results": rows}, indent=1)
    replace_file(path, f"{text}\n".encode())


def read_results(path: Path) -> ResultFile:
    """Reads a result file.

    Raises:
        UserError: it is missing or not a result file.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        results = tuple(_result(row) for row in tree["results"])
        return ResultFile(tree["machine"], results)
    except FileNotFoundError:
        raise UserError(f"result file {path} does not exist; measure it first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result file: {error!r}; measure it again") from None


def render_bars(results: Iterable[Result]) -> str:
    """A line for each result with a bar: whether it holds, what was found, what was asked for."""
    lines = []
    for result in results:
        if result.bar is not None:
            verdict = "holds" if result.holds else "MISSED"
            found, asked = _value(result), _bar(result)
            lines.append(f"{verdict:6}  {result.name}: {found} {result.unit} (bar {asked})")
    return "\n".join(lines)


def render_table(file: ResultFile, *, prefix: str = "") -> str:
    """A Markdown table with a row for each result whose name begins with `prefix`."""
    chosen = [result for result in file.results if result.name.startswith(prefix)]
    rows = [["what", "value", "unit", "smallest to largest", "n", "bar", "holds"]]
    for result in chosen:
        verdict = {None: "", True: "yes", False: "**no**"}[result.holds]
        name = _rest(result.name, prefix)
        cells = [_value(result), result.unit, _range(result), str(result.n), _bar(result), verdict]
        rows.append([name, *cells])
    return f"{_markdown(rows)}\n{_source(file, chosen)}\n"


def render_grid(file: ResultFile, *, prefix: str = "") -> str:
    """A Markdown table with a row for each case and a column for each quantity.

    A name is "CASE/QUANTITY", split at its last "/".
    """
    chosen = [result for result in file.results if result.name.startswith(prefix)]
    cells: dict[str, dict[str, str]] = {}
    for result in chosen:
        case, _, quantity = _rest(result.name, prefix).rpartition("/")
        column = f"{quantity} [{result.unit}]" if result.unit else quantity
        verdict = {None: "", True: f" (bar {_bar(result)})", False: f" (**bar {_bar(result)}**)"}
        cells.setdefault(case, {})[column] = _value(result) + verdict[result.holds]
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = [["", *columns]]
    rows += [[case, *(row.get(column, "") for column in columns)] for case, row in cells.items()]
    return f"{_markdown(rows)}\n{_source(file, chosen)}\n"


def _rest(name: str, prefix: str) -> str:
    """What `prefix` leaves of `name`, to stand at a row's beginning."""
    return name.removeprefix(prefix).lstrip(", ")


def fill_tables(text: str, files: Mapping[str, ResultFile]) -> str:
    """`text` with the table of a result file between every pair of markers.

    Raises:
        UserError: a marker names a file that there is not, or a prefix that no result has.
    """

    def filled(found: re.Match[str]) -> str:
        name, prefix = found["name"], found["prefix"] or ""
        if name not in files:
            known = ", ".join(files) or "none"
            raise UserError(
                f"a table is of results {name!r}, which are not there; there are {known}: measure "
                "them or mend the marker"
            )
        if not any(result.name.startswith(prefix) for result in files[name].results):
            raise UserError(
                f"a table is of {name}/{prefix}, and no result of {name} begins with {prefix!r}; "
                "mend the marker"
            )
        render = render_grid if found["grid"] else render_table
        return f"{found['start']}{render(files[name], prefix=prefix)}{found['end']}"

    return _MARKED.sub(filled, text)


def tables_shown(text: str) -> set[str]:
    """Names of the result files that markers in `text` show."""
    return {found["name"] for found in _MARKED.finditer(text)}


def _result(row: Mapping[str, Any]) -> Result:
    fields: dict[str, Any] = {name: value for name, value in row.items() if name != "holds"}
    for pair in ("bar", "spread"):
        fields[pair] = None if fields[pair] is None else tuple(fields[pair])
    return Result(**fields)


def _spread(samples: Sequence[float]) -> tuple[float, float] | None:
    return None if len(samples) == 1 else (min(samples), max(samples))


def number(value: float) -> str:
    """Three significant digits: 1.23e-09, 0.0123, 1.23, 12.3, 1,230."""
    if value == 0:
        return "0"
    if abs(value) < 1e-6:
        return f"{value:.2e}"
    digits = max(0, 2 - int(f"{value:.2e}".partition("e")[2]))
    return f"{value:,.{digits}f}"


def _value(result: Result) -> str:
    return number(result.value)


def _range(result: Result) -> str:
    return "" if result.spread is None else " to ".join(number(end) for end in result.spread)


def _bar(result: Result) -> str:
    return "" if result.bar is None else f"{result.bar[0]} {result.bar[1]:g}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _source(file: ResultFile, results: Sequence[Result]) -> str:
    """One line below a table: where, when, by which command and of which code."""
    told = {name: value for name, value in file.machine.items() if value is not None}
    versions = [f"{name} {told[name]}" for name in ("python", "jax", "torch") if name in told]
    place = f"{told.get('cores')} cores of {told.get('cpu')}"
    commands = dict.fromkeys(f"`{result.command}`" for result in results if result.command)
    commits = dict.fromkeys(f"commit {result.commit}" for result in results if result.commit)
    parts = [place, ", ".join(versions), str(told.get("date")), *commands, *commits]
    return f"\n{'; '.join(parts)}."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
