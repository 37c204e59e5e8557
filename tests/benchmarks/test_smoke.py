"""Every benchmark runs from end to end at tiny sizes; what it finds means nothing."""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import ROOT, attention, ladder, peak, runner, time_to_loss
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.child import Answer
from benchmarks.runner import Case
from benchmarks.sides import our_ladder
from benchmarks.time_to_loss import Runs
from rtdlm.evaluation.results import Result, read_results

COMMITTED = ROOT / "benchmarks" / "results"
SHAPES = ((4, 8), (8, 4))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Enough text for each side."""
    file = tmp_path / "text.txt"
    file.write_text("".join(f"Line {n} of a text that says little.\n" for n in range(400)))
    return file


@pytest.fixture
def torch() -> None:
    """Skips where the peer cannot run."""
    pytest.importorskip("torch", reason="the peer needs PyTorch: pip install 'rtdlm[bench]'")


@pytest.fixture
def peers_here(torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures PyTorch's side in this process: importing it takes longer than the measurement."""
    run_here(monkeypatch, lambda case: ".our_" not in case.module)


@pytest.fixture
def all_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures all sides in this process, where no case needs one of its own: starting it takes
    longer than what it runs.
    """
    run_here(monkeypatch, lambda case: True)


def run_here(monkeypatch: pytest.MonkeyPatch, which: Callable[[Case], bool]) -> None:
    """Makes children of those cases that `which` chooses run in this process."""
    really = runner.run_case

    def run(case: Case, *, on: Sequence[int] | None = None) -> Answer:
        if not which(case):
            return really(case, on=on)
        spec = {**case.spec, "threads": case.threads, "spawned": time.time()}
        return {**importlib.import_module(case.module).measure(spec), "peak_bytes": 1}

    monkeypatch.setattr(runner, "run_case", run)
    monkeypatch.setattr(peak, "run_case", run)


def smoke(name: str, out: Path, *flags: str) -> dict[str, Result]:
    before = {path: path.read_bytes() for path in COMMITTED.glob("*.json")}
    assert main([name, "--smoke", "--out", str(out), *flags]) == 0
    assert {path: path.read_bytes() for path in COMMITTED.glob("*.json")} == before
    results = read_results(out).results
    names = [result.name for result in results]
    assert len(set(names)) == len(names)
    assert all(result.command is not None for result in results)
    return {result.name: result for result in results}


@pytest.mark.usefixtures("all_here")
def test_quantum(tmp_path: Path) -> None:
    """The peers are no part of the suite: importing them alone takes half a minute."""
    found = smoke("quantum", tmp_path / "q.json", "--repeats", "1", "--peers")
    assert found["4 qubits, gradient/ours/CPU"].value > 0
    assert found["10 qubits, bonds of 4, 4 layers/ours/wall"].value > 0


@pytest.mark.usefixtures("all_here")
def test_quantum_overhead(tmp_path: Path) -> None:
    found = smoke("quantum-overhead", tmp_path / "o.json", "--repeats", "1")
    assert found["statevector, 10 qubits, 2 layers/bytes, told over allocated"].value > 0


@pytest.mark.usefixtures("peers_here")
def test_step(tmp_path: Path) -> None:
    found = smoke("step", tmp_path / "step.json")
    for side in ("ours", "torch eager"):
        title = f"tiny preset, 1 thread/{side}"
        assert found[f"{title}/wall"].value > 0
        assert found[f"{title}/first step, cold"].value >= 0
        assert found[f"{title}/MFU, float32 peak"].value > 0
    assert found["tiny preset, 1 thread/torch eager over ours, CPU"].bar == (">=", 1.0)
    assert found["tiny preset, 1 thread/ours/MFU, float32 peak"].bar == (">=", 60.0)


@pytest.mark.usefixtures("peers_here")
def test_profile(tmp_path: Path) -> None:
    found = smoke("profile", tmp_path / "profile.json")
    assert found["tiny preset, float32/feed-forward, products"].value > 0
    assert found["tiny preset, float32/optimizer and the rest"].value > 0
    assert found["tiny preset, float32/rate of all products"].value > 0


@pytest.mark.usefixtures("peers_here")
def test_decode(tmp_path: Path) -> None:
    found = smoke("decode", tmp_path / "decode.json")
    for side in ("ours", "torch, standard loop", "torch, cached loop"):
        assert found[f"batch 1, 1 thread/{side}"].value > 0
    assert found["batch 1, 1 thread/ours over torch, standard loop"].bar == (">=", 5.0)
    assert found["batch 1, 1 thread/ours over torch, cached loop"].bar is None


@pytest.mark.slow
@pytest.mark.usefixtures("all_here")
def test_speculative(tmp_path: Path, text: Path) -> None:
    found = smoke("speculative", tmp_path / "speculative.json", "--text", str(text))
    for name in ("greedy", "drawn"):
        assert found[f"{name}, 1 thread/plain/tokens a call"].value == 1.0
        for draft in ("draft model, 4 tokens", "first 1 layers, 4 tokens"):
            title = f"{name}, 1 thread/{draft}"
            assert 1.0 <= found[f"{title}/tokens a call"].value <= 5.0
            assert found[f"{title}/over plain"].value > 0


@pytest.mark.slow
@pytest.mark.usefixtures("torch")
def test_start(tmp_path: Path, text: Path) -> None:
    found = smoke("start", tmp_path / "start.json", "--text", str(text))
    for side in ("ours", "torch eager"):
        for kind in ("cold", "warm"):
            first, end = (found[f"{side}/{what}, {kind}"] for what in ("first step", "end"))
            assert 0 < first.value <= end.value
    assert found["ours/warm over cold"].bar == ("<=", 0.4)


@pytest.mark.usefixtures("peers_here")
def test_time_to_loss(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"free": Runs("tests.benchmarks.sides:instant")}
    monkeypatch.setattr(time_to_loss, "OURS", ours)
    flags = ("--text", str(text), "--repeats", "2", "--grid", "--classes", "free", "tuned peer")
    found = smoke("time-to-loss", tmp_path / "time.json", *flags)
    assert found["peer, standard/steps"].value == 20
    assert found["peer, standard/loss"].n == 2
    assert found["ours, free/CPU"].value == 2.0
    assert found["ours, free/steps"].spread == (10.0, 11.0)
    sooner = found["ours, free/sooner, CPU"]
    theirs = found["peer, standard/CPU"]
    assert sooner.value == pytest.approx(theirs.value / 2.0)
    assert sooner.bar == (">=", 40.0)
    assert not any(name.startswith("ours, tuned peer") for name in found)


@pytest.mark.usefixtures("peers_here")
def test_a_side_that_never_arrives_is_no_sooner(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"free": Runs("tests.benchmarks.sides:instant", {"reached": False})}
    monkeypatch.setattr(time_to_loss, "OURS", ours)
    found = smoke("time-to-loss", tmp_path / "t.json", "--text", str(text), "--classes", "free")
    assert found["ours, free/sooner, CPU"].value == 0.0
    missed = [result for name, result in found.items() if "seeds that reached" in name]
    assert [result.holds for result in missed] == [False]


@pytest.mark.usefixtures("all_here")
def test_attention(tmp_path: Path) -> None:
    found = smoke("attention", tmp_path / "attention.json")
    for kind in ("sliding", "linear", "sparse"):
        assert found[f"T 32, float32, 1 thread/{kind}/CPU"].value > 0
        assert found[f"compared, float32, 1 thread/{kind}/T 64 over T 32, memory"].value > 1
    sliding = "compared, float32, 1 thread/sliding"
    assert found[f"{sliding}/T 64 over T 32, CPU"].bar == ("<=", 2.2)
    assert found[f"{sliding}/dense over it at T 32, CPU"].bar == (">=", 3.0)


@pytest.mark.usefixtures("all_here")
def test_sparse(tmp_path: Path) -> None:
    found = smoke("sparse", tmp_path / "sparse.json")
    title = "experts 32 wide, float32, 1 thread"
    for kind in ("capacity", "dropless"):
        assert found[f"{title}/{kind}/CPU"].value > 0
        assert found[f"{title}/{kind} over all, CPU"].bar == ("<=", 0.45)
    assert found[f"{title}/capacity over all, operations"].value < 0.6
    assert found["depths, 2 layers, float32, 1 thread/deep over dense, CPU"].bar == ("<=", 0.75)


@pytest.mark.usefixtures("all_here")
def test_ladder(tmp_path: Path) -> None:
    found = smoke("ladder", tmp_path / "ladder.json")
    title = next(iter(found)).rpartition(",")[0]
    for kind in ladder.KINDS:
        for clock in ("CPU", "wall"):
            assert found[f"{title}, {clock}/{kind}"].value > 0
    assert found[f"{title}, CPU/ladder over ideal"].bar == ("<=", 1.35)
    assert found[f"{title}, CPU/masked over fixed"].bar == (">=", 0.95)
    assert found[f"{title}, CPU/ladder, largest error"].value < 1e-5


@pytest.mark.parametrize("needs", ladder.NEEDS)
def test_all_ways_of_running_steps_give_the_same_rows(needs: str) -> None:
    rng = np.random.default_rng(3)
    step = our_ladder.Step(*(jnp.asarray(rng.normal(0, 0.3, s), jnp.float32) for s in SHAPES))
    rows = jnp.asarray(rng.normal(size=(24, 4)), jnp.float32)
    need = our_ladder.needed(needs, 24, steps=5)
    assert need.min() >= 1 and need.max() <= 5
    expected = []
    for row, count in zip(rows, need, strict=True):
        x = row[None]
        for _ in range(count):
            x = step(x)
        expected.append(x[0])
    ways = {kind: our_ladder.way(kind, need, 5) for kind in ladder.KINDS if kind != "fixed"}
    for run in (*ways.values(), our_ladder.each(5)):
        found = jax.jit(run)(step, rows, jnp.asarray(need))
        np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)


def test_a_kind_is_faster_from_the_length_on_that_nothing_longer_contradicts() -> None:
    assert attention.first_of_last_run({1: True, 2: False, 4: True, 8: True}) == 4
    assert attention.first_of_last_run({1: True, 2: True}) == 1
    assert attention.first_of_last_run({1: True, 2: False}) is None


def test_attention_leaves_out_what_does_not_fit() -> None:
    fits, large = {"wall": 1.0, "temporary_bytes": 1.0}, {"temporary_bytes": 9.0 * 2**30}
    answers = {f"T/{kind}": [large if kind == "dense" else fits] for kind in attention.KINDS}
    found = attention._measured("T", answers, attention.KINDS, limit=8.0)
    assert list(found) == list(attention.KINDS[1:])


@pytest.mark.usefixtures("all_here")
def test_core(tmp_path: Path) -> None:
    found = smoke("core", tmp_path / "core.json", "--repeats", "1")
    assert found["fast/CPU over thorough"].bar == ("<=", 0.5)
    assert found["fast/steps a token"].value <= found["balanced/steps a token"].value
    assert found["thorough/steps a token"].value == 3
    assert found["fast/operations"].value < found["thorough/operations"].value


def test_there_is_a_smoke_test_for_every_benchmark() -> None:
    tested = {name.removeprefix("test_").replace("_", "-") for name in globals()}
    assert BENCHMARKS.keys() <= tested


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_chaos(tmp_path: Path) -> None:
    found = smoke("chaos", tmp_path / "chaos.json", "--only", "during a save", "no coordinator")
    assert found["kill -9 during a save/injected"].value == 1
    assert found["no coordinator/injected"].value == 1
    assert all(result.holds is not False for result in found.values())


@pytest.mark.slow
def test_scaling(tmp_path: Path) -> None:
    found = smoke("scaling", tmp_path / "out.json", "--parts", "memory", "weak")
    assert found["memory, tiny, fsdp/state"].value > 0
    assert found["weak, data, adamw, cpu:8/arithmetic, change"].holds
    # One all-reduce of the gradients, and of a few scalars.
    assert found["weak, data, adamw, cpu:8/sent over formula"].value == pytest.approx(1.0, abs=0.02)
