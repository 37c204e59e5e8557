import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rtdlm.config import UserError
from rtdlm.evaluation.results import (
    Result,
    ResultFile,
    add_results,
    commit,
    fill_tables,
    machine,
    number,
    read_results,
    render_bars,
    render_grid,
    render_table,
    stamped,
    write_results,
)

MACHINE = {
    "cpu": "Fast CPU", "cores": 2, "python": "3.11.7", "jax": "0.10.2", "torch": None,
    "date": "2026-01-02",
}  # fmt: skip
ROWS = (
    Result("small/ours/wall", 2.0, "ms", ("<=", 3.0), 3, (1.5, 4.0), "python -m x", "abc"),
    Result("small/theirs/wall", 1234.5, "ms"),
    Result("small/ours/speed", 0.0123, "x", (">=", 9.0)),
)
FILE = ResultFile(MACHINE, ROWS)
SOURCE = "2 cores of Fast CPU; python 3.11.7, jax 0.10.2; 2026-01-02; `python -m x`; commit abc."


def test_a_bar_holds_or_not() -> None:
    cases = [
        ((">=", 2.0), True), ((">=", 2.1), False), (("<=", 2.0), True), (("<=", 1.9), False),
        (None, None),
    ]  # fmt: skip
    for bar, holds in cases:
        assert Result("a", 2.0, "s", bar).holds is holds


def test_the_middle_is_the_median_or_the_mean() -> None:
    samples = [1.0, 2.0, 6.0]
    assert Result.median("a", samples, "s") == Result("a", 2.0, "s", None, 3, (1.0, 6.0))
    assert Result.mean("a", samples, "s") == Result("a", 3.0, "s", None, 3, (1.0, 6.0))
    assert Result.median("a", [4.0], "s") == Result("a", 4.0, "s", None, 1, None)
    # The mean of equal numbers may round beyond them.
    assert Result.mean("a", [0.1] * 3, "s").value == 0.1


def test_a_value_outside_its_spread_is_a_defect() -> None:
    with pytest.raises(AssertionError):
        Result("a", 5.0, "s", n=3, spread=(1.0, 4.0))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "step.json"
    write_results(path, ROWS)
    assert read_results(path).results == ROWS
    tree = json.loads(path.read_text())
    assert list(tree["results"][0]) == [
        "name", "value", "unit", "bar", "n", "spread", "command", "commit", "holds",
    ]  # fmt: skip
    assert [row["holds"] for row in tree["results"]] == [True, None, False]
    assert tree["machine"] == machine()


def test_rows_may_be_added_to_a_file_of_the_same_machine(tmp_path: Path) -> None:
    path, first = tmp_path / "step.json", ROWS[0]
    again, new = replace(first, commit="def"), Result("new", 1.0, "s")
    write_results(path, ROWS)
    add_results(path, [new, again])
    assert read_results(path).results == (again, *ROWS[1:], new)
    assert read_results(path).machine == machine()
    tree = json.loads(path.read_text())
    path.write_text(json.dumps(tree | {"machine": machine() | {"date": "2020-01-01"}}))
    for _ in range(2):
        add_results(path, [new])
        assert read_results(path).machine["date"] == f"2020-01-01 to {machine()['date']}"
    path.write_text(json.dumps(tree | {"machine": machine() | {"cpu": "abacus"}}))
    with pytest.raises(UserError, match=r"measured elsewhere: cpu abacus \(now .*measure all"):
        add_results(path, [new])


def test_the_machine_is_described_without_names_or_paths() -> None:
    found = machine()
    assert list(found) == ["cpu", "cores", "system", "python", "jax", "torch", "date"]
    assert found["cores"] >= 1
    assert "/" not in json.dumps(found)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match=r"a.json does not exist; measure it first"):
        read_results(path)
    for text in ("{", "[]", '{"machine": {}, "results": [{"name": "a"}]}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"a.json is no result file: .*; measure it again"):
            read_results(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.0123, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (9.999, "10.0"),
        (123.4, "123"), (1234.5, "1,234"), (-2.5, "-2.50"), (65, "65.0"), (1234567, "1,234,567"),
        (6.67e-13, "6.67e-13"), (0.00000123, "0.00000123"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_is_this_text() -> None:
    assert render_table(FILE, prefix="small/") == (
        "| what | value | unit | smallest to largest | n | bar | holds |\n"
        "|---|---|---|---|---|---|---|\n"
        "| ours/wall | 2.00 | ms | 1.50 to 4.00 | 3 | <= 3 | yes |\n"
        "| theirs/wall | 1,234 | ms |  | 1 |  |  |\n"
        "| ours/speed | 0.0123 | x |  | 1 | >= 9 | **no** |\n"
        f"\n{SOURCE}\n"
    )


def test_the_grid_is_this_text() -> None:
    assert render_grid(FILE) == (
        "|  | wall [ms] | speed [x] |\n"
        "|---|---|---|\n"
        "| small/ours | 2.00 (bar <= 3) | 0.0123 (**bar >= 9**) |\n"
        "| small/theirs | 1,234 |  |\n"
        f"\n{SOURCE}\n"
    )


def test_the_bars_are_told() -> None:
    assert render_bars(ROWS) == (
        "holds   small/ours/wall: 2.00 ms (bar <= 3)\nMISSED  small/ours/speed: 0.0123 x (bar >= 9)"
    )


def test_tables_are_filled_between_their_markers() -> None:
    text = (
        "a\n<!-- results:step -->\n<!-- /results -->\nb\n"
        "<!-- results:step/small/ours/ as grid -->\nold\n<!-- /results -->\nc\n"
    )
    filled = fill_tables(text, {"step": FILE})
    assert filled == (
        f"a\n<!-- results:step -->\n{render_table(FILE)}<!-- /results -->\nb\n"
        "<!-- results:step/small/ours/ as grid -->\n"
        f"{render_grid(FILE, prefix='small/ours/')}<!-- /results -->\nc\n"
    )
    assert fill_tables(filled, {"step": FILE}) == filled
    other = ResultFile(MACHINE, (replace(ROWS[0], value=2.5),))
    assert fill_tables(filled.replace("/small/ours/ as grid", ""), {"step": other}) != filled


def test_a_marker_that_matches_nothing_is_told() -> None:
    marked = "<!-- results:step/large -->\n<!-- /results -->"
    with pytest.raises(UserError, match="no result of step begins with 'large'; mend the marker"):
        fill_tables(marked, {"step": FILE})
    with pytest.raises(UserError, match="results 'step', which are not there; there are none"):
        fill_tables(marked, {})


def git(root: Path, *arguments: str) -> str:
    person = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", *person, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def test_rows_carry_the_commit_and_whether_the_code_differed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    head = git(tmp_path, "rev-parse", "--short", "HEAD").strip()
    write_results(tmp_path / "benchmarks/results/step.json", ROWS)  # measuring makes nothing dirty
    [row] = stamped(ROWS[:1], command="python -m y", root=tmp_path)
    assert (row.commit, row.command) == (head, "python -m y")
    (tmp_path / "code.py").write_text("x = 2\n")
    assert commit(tmp_path) == f"{head}+"
