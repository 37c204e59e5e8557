import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import child, runner, sparse
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.child import time_blocks
from benchmarks.runner import Case, cores, interleave, ratios, run_all, run_case
from benchmarks.timing import Timing, TrainingClock
from rtdlm.evaluation.results import Result, read_results, write_results

HERE = "tests.benchmarks.sides"


def test_a_child_runs_on_the_cores_it_is_given_and_answers() -> None:
    case = Case(HERE, {}, threads=1, environment={"BENCH_WORD": "hello"})
    answer = run_case(case)
    assert answer["cores"] == cores()[-1:]
    assert answer["word"] == "hello"
    if hasattr(os, "sched_getaffinity"):
        assert answer["affinity"] == cores()[-1:]
    assert answer["peak_bytes"] > 1e6
    assert answer["process_cpu_seconds"] > 0


def test_a_child_that_fails_is_told_with_what_it_said() -> None:
    with pytest.raises(
        RuntimeError, match=r"tests.benchmarks.sides ended with status 1:[^~]*asked"
    ):
        run_case(Case(HERE, {"fail": True}))


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run(case: Case) -> dict[str, Any]:
        order.append(case.module)
        return {"turn": len(order)}

    monkeypatch.setattr(runner, "run_case", run)
    answers = interleave({"a": Case("A", {}), "b": Case("B", {})}, repeats=2)
    assert order == ["A", "B", "A", "B"]
    assert answers == {"a": [{"turn": 1}, {"turn": 3}], "b": [{"turn": 2}, {"turn": 4}]}


def test_runs_side_by_side_have_a_core_each(monkeypatch: pytest.MonkeyPatch) -> None:
    busy: set[int] = set()

    def run(case: Case, *, on: list[int]) -> dict[str, Any]:
        assert not busy & set(on)
        busy.update(on)
        time.sleep(0.02)
        busy.difference_update(on)
        return {"number": case.spec["number"]}

    monkeypatch.setattr(runner, "run_case", run)
    answers = run_all([Case("A", {"number": n}) for n in range(6)], at_once=2)
    assert [answer["number"] for answer in answers] == list(range(6))


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([2.0, 6.0], [1.0, 2.0]) == [2.0, 3.0]


class FakeTime:
    """Stands for the module `time`: clocks that move when work is done."""

    def __init__(self) -> None:
        self.wall = self.cpu = 100.0

    def work(self, *, wall: float, cpu: float) -> None:
        self.wall, self.cpu = self.wall + wall, self.cpu + cpu

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(child, "time", fake)
    return fake


def test_blocks_time_one_piece_of_work(clocks: FakeTime) -> None:
    calls: list[int] = []

    def advance(count: int) -> None:
        first = not calls
        clocks.work(wall=50.0 if first else 2.0 * count, cpu=40.0 if first else 1.0 * count)
        calls.append(count)

    found = time_blocks(advance, seconds=50.0, block_seconds=20.0)
    assert found == {"first_wall": 50.0, "first_cpu": 40.0, "wall": 2.0, "cpu": 1.0}
    assert calls == [1, 2, 10, 10, 10, 10]  # compiles, sizes, warms up; then 60 seconds are timed


def test_the_clock_leaves_compilation_and_evaluation_out(clocks: FakeTime) -> None:
    clock = TrainingClock()
    with clock.compiling():
        clocks.work(wall=8.0, cpu=7.0)
    for _ in range(2):
        clocks.work(wall=3.0, cpu=2.0)
        with clock.evaluating():
            clocks.work(wall=16.0, cpu=13.0)
    timing = clock.timing(reached=True, loss=1.5, steps=3, parameters=7)
    assert timing == Timing(
        reached=True,
        loss=1.5,
        steps=3,
        cpu_seconds=4.0,
        wall_seconds=6.0,
        compile_cpu_seconds=7.0,
        compile_wall_seconds=8.0,
        parameters=7,
        evaluation_wall_seconds=32.0,
    )


def test_without_torch_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "torch" else real(name, *a)
    )
    for name in ("step", "time-to-loss", "decode", "start", "profile"):
        assert main([name, "--smoke"]) == 2
        assert capsys.readouterr().err == (
            "error: PyTorch, which the peer is written in, is not installed; install it with "
            "`pip install 'rtdlm[bench]'` or `pip install torch`\n"
        )


def test_mistakes_are_told_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stepp"]) == 2
    known = ", ".join(BENCHMARKS)
    assert capsys.readouterr().err == f"error: there is no benchmark 'stepp'; there are {known}\n"
    assert main(["step", "--threads", "1000"]) == 2
    assert capsys.readouterr().err == (
        f"error: --threads 1000 is more than the {len(cores())} cores that this process may use; "
        "ask for fewer\n"
    )
    assert main(["sparse", "--smoke", "--add"]) == 2
    assert capsys.readouterr().err == (
        "error: --add has no effect with --smoke, which writes nothing; give --out too\n"
    )
    assert main(["sparse", "--only", "bfloat16"]) == 2
    assert "a part and would replace all of" in capsys.readouterr().err
    assert main(["sparse", "--smoke", "--only", "typo"]) == 2
    assert "error: no case has 'typo' in its name; they begin" in capsys.readouterr().err


def test_a_part_is_measured_and_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []

    def found(title: str, *_: Any, **__: Any) -> list[Result]:
        titles.append(title)
        return [Result(title, 1.0, "ms")]

    monkeypatch.setattr(sparse, "_experts", found)
    monkeypatch.setattr(sparse, "_depths", found)
    path, other = tmp_path / "sparse.json", Result("other", 2.0, "s")
    write_results(path, [other])
    only = ["sparse", "--threads", "1", "--only", "depths", "--out", str(path)]
    assert main([*only, "--add"]) == 0
    assert len(titles) == len(sparse.LAYERS) * len(sparse.FORMATS)
    assert all(title.startswith("depths, ") for title in titles)
    assert [result.name for result in read_results(path).results] == ["other", *titles]
    assert main(only) == 0
    assert [result.name for result in read_results(path).results] == titles[len(titles) // 2 :]


def test_alone_it_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for name, module in BENCHMARKS.items():
        assert f"  {name} " in shown
        assert sys.modules[module].DESCRIPTION in shown
