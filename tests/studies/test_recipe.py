"""The arithmetic of the study by hand, its clock, and one run from end to end at a tiny size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.child import Times
from benchmarks.ours.characters import held_out_loss
from benchmarks.text import read_characters, windows
from rtdlm.config import AGIConfig
from rtdlm.data import Warmup, train_bpe
from rtdlm.evaluation import make_eval_step
from rtdlm.evaluation.results import read_results
from rtdlm.models import TMSModel
from rtdlm.parallel import make_mesh
from studies import kinds, recipe_side
from studies.__main__ import main
from studies.recipe import results, verdict
from studies.recipe_side import (
    Answer,
    Run,
    affordable,
    mean_cost,
    read_words,
    relative_costs,
)
from studies.variants import SIZES, merged, variants

SMOKE = SIZES["smoke"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("".join(f"Line {n} of a text that says little.\n" for n in range(400)))
    return file


SMALL_STEPS = AGIConfig.from_dict(
    merged(SMOKE.config, {"warmup": {"batch_size": 2, "batch_steps": 10}})
)


def answer(*losses: float, cost: float = 1.0) -> Answer:
    seconds = [1.0] * len(losses)
    return Answer(
        list(losses), seconds, steps=round(100 / cost), relative_costs=[cost], parameters=7
    )


def test_differences_are_paired_and_held_against_twice_their_standard_error() -> None:
    base = answer(2.0, 2.1, 2.2)
    worse, noisy = answer(2.4, 2.5, 2.6, cost=2.0), answer(2.0, 2.13, 2.17)
    found = {r.name: r for r in results(base, {"none: a": worse, "some: b": noisy})}
    # Standard errors: 0 and 0.03 / sqrt(3); the median of the study is half of that.
    assert found["none: a (worse)/difference"].value == pytest.approx(0.4)
    twice = "twice its standard error"
    assert found[f"none: a (worse)/{twice}"].value == pytest.approx(0.03 / 3**0.5)
    assert found["some: b (not decided)/difference"].value == pytest.approx(0.0, abs=1e-12)
    assert found[f"some: b (not decided)/{twice}"].value == pytest.approx(0.06 / 3**0.5)
    assert found["none: a (worse)/steps"].value == 50
    assert found["base/loss"].value == pytest.approx(2.1)
    assert found["base/loss"].spread == (2.0, 2.2)


def test_verdicts() -> None:
    assert [verdict(d, 0.1) for d in (-0.2, -0.1, 0.1, 0.2)] == [
        "better", "not decided", "not decided", "worse",
    ]  # fmt: skip


def test_a_slow_moment_is_in_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes with the work: the second half of all rounds is ten times slower."""
    clock = {"now": 0.0}

    class Worker:
        def __init__(self, cost: float) -> None:
            self.cost = cost
            self.warmup = Warmup(SMALL_STEPS)

        def start(self, seed: int) -> int:
            return seed

        def advance(self, state: int, random: Any, steps: Sequence[int]) -> int:
            slow = 10.0 if clock["now"] > 1.0 else 1.0
            clock["now"] += slow * sum(self.cost * (1.0 if s >= 10 else 0.5) for s in steps)
            return state

    class Clock:
        def __init__(self) -> None:
            self.start = clock["now"]

        def read(self) -> Times:
            return Times(0.0, clock["now"] - self.start)

    monkeypatch.setattr(recipe_side, "Timer", Clock)
    slower: Any = Worker(0.03)
    for at, expected in ((10, 1.5), (3, 0.75)):  # the base's whole steps are what both go by
        clock["now"] = 0.0
        ratios = relative_costs(Worker(0.02), slower, at=at)  # type: ignore[arg-type]
        # One round may see the slow moment begin between its sides.
        assert sorted(ratios)[1:-1] == pytest.approx([expected] * (len(ratios) - 2))


@pytest.mark.parametrize("costs", [{0: 2.0}, {0: 0.25, 3: 0.5, 6: 1.0}, {0: 0.5, 40: 1.0}])
def test_steps_that_grow_are_paid_one_by_one(costs: dict[int, float]) -> None:
    def cost(step: int) -> float:
        return costs[max(start for start in costs if start <= step)]

    for steps in (1, 3, 5, 6, 7, 30):
        total = sum(cost(step) for step in range(steps))
        assert affordable(costs, total) == steps
        assert mean_cost(costs, steps) == pytest.approx(total / steps)
    assert affordable(costs, 0.01) == 1, "at least one"


def test_every_change_of_every_size_is_a_valid_configuration_of_its_own() -> None:
    studies = [(size, list(variants(size))) for size in SIZES.values()]
    studies += [(size, list(kinds.kinds(size.config))) for size in kinds.SIZES.values()]
    for size, changed in studies:
        base = AGIConfig.from_dict(size.config)
        configs = [AGIConfig.from_dict(merged(size.config, v.change)) for v in changed]
        assert base not in configs
        assert len({str(config) for config in configs}) == len(configs)
        assert len({variant.name for variant in changed}) == len(changed)


def test_words_are_learned_from_what_is_trained_on(text: Path) -> None:
    found = read_words(text, 300)
    whole = text.read_text()
    split = int(0.9 * len(whole))
    tokenizer = train_bpe([whole[:split]], 300)
    assert found.vocab_size == tokenizer.vocab_size == 300
    assert tokenizer.decode(found.train_N) == whole[:split]
    assert tokenizer.decode(found.held_out_N) == whole[split:]


def test_merging_changes_one_field_of_a_section() -> None:
    base = {"width": 1, "optimizer": {"name": "muon", "rate": 2}}
    assert merged(base, {"optimizer": {"rate": 3}}) == {
        "width": 1, "optimizer": {"name": "muon", "rate": 3},
    }  # fmt: skip
    assert base["optimizer"] == {"name": "muon", "rate": 2}


def test_the_loss_is_the_mean_over_all_windows(text: Path) -> None:
    """More than one batch of windows, the last one not full, against the logits themselves."""
    characters = read_characters(text)
    run = Run(characters, SMOKE.config)
    ids_BT, labels_BT = held_out = windows(characters.train_N, length=64)
    assert 128 < len(ids_BT) < 256
    params = run.start(0).params
    # Zero-initialised outputs would let any attention pass.
    params = jax.tree.map(
        lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params
    )
    logits_BTV = jax.jit(TMSModel(run.config).logits)(params, ids_BT.astype(np.int32))
    scores = np.asarray(logits_BTV, np.float64)
    log_sum = np.log(np.exp(scores).sum(-1))
    own = np.take_along_axis(scores, labels_BT[..., None], -1)[..., 0]
    judge = make_eval_step(TMSModel(run.config), make_mesh(run.config.mesh, jax.devices()[:1]))
    assert held_out_loss(judge, params, held_out) == pytest.approx(
        float((log_sum - own).mean()), abs=1e-5
    )


@pytest.mark.slow
def test_a_change_is_trained_for_the_steps_that_the_base_would_pay(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_side, "relative_costs", lambda base, run, at: [1.9, 2.0, 9.0])
    out = tmp_path / "recipe.json"
    flags = ["--smoke", "--seeds", "2", "--only", "QK-norm", "--text", str(text)]
    assert main(["recipe", *flags, "--out", str(out)]) == 0
    found = read_results(out).results
    steps = [r.value for r in found if r.name.endswith("/steps")]
    assert steps == [SMOKE.steps, SMOKE.steps / 2]
    losses = [r for r in found if r.name.endswith("/loss")]
    assert all(r.n == 2 and 1.0 < r.value < 5.0 for r in losses)
    assert all(r.command is not None for r in losses)
    assert list(tmp_path.glob("*.partial")) == []


def test_a_word_that_no_change_has_is_told(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "--smoke", "--only", "warp", "--text", str(text)]) == 2
    assert (
        "no change has 'warp' in its name; --only takes a word such as 'short convolutions'"
        in capsys.readouterr().err
    )


def test_a_study_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 2
    assert "there is no study 'recipes'; there are recipe" in capsys.readouterr().err
    assert main([]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "recipe each ingredient of the training recipe" in words
