"""The study of facts: what is drawn, that budgets are equal, and one run at a tiny size."""

from pathlib import Path

import numpy as np
import pytest

from rtdlm.evaluation.results import read_results
from rtdlm.models.cost import forward_flops_per_token
from studies.__main__ import main
from studies.memory_facts import SMOKE, WHOLE, Ran, Rates, Size, batches, draw, held, kinds, results


@pytest.mark.parametrize("size", [WHOLE, SMOKE], ids=["whole", "smoke"])
def test_no_two_facts_ask_the_same_and_every_fact_is_a_document(size: Size) -> None:
    facts = draw(size, np.random.default_rng(0))
    assert len(set(map(tuple, facts.told_NT.tolist()))) == size.facts
    known = dict(zip(map(tuple, facts.told_NT.tolist()), facts.object_N.tolist(), strict=True))
    assert facts.object_N.min() >= size.letters + size.relations
    assert max(facts.told_NT.max(), facts.object_N.max()) < size.vocab_size
    order, seen = np.random.default_rng(1).permutation(size.facts), []
    shown = list(batches(size, facts, order))
    assert len(shown) == size.steps
    for batch in shown:
        for row, last in zip(*np.nonzero(batch.weights), strict=True):
            document = batch.segment_ids[row] == batch.segment_ids[row, last]
            told = tuple(batch.input_ids[row, document].tolist())
            assert batch.positions[row, document].tolist() == [0, 1, 2]
            assert batch.labels[row, last] == known[told]
            seen.append(told)
    assert sorted(seen) == sorted(known), "every fact once"


@pytest.mark.parametrize("size", [WHOLE, SMOKE], ids=["whole", "smoke"])
def test_all_kinds_have_the_same_operations_a_token(size: Size) -> None:
    configs = kinds(size)
    assert list(configs) == ["dense", "product_key", "ngram"]
    flops = {
        name: forward_flops_per_token(config, length=config.max_seq_len)
        for name, config in configs.items()
    }
    for name, own in flops.items():
        assert own == pytest.approx(flops["dense"], rel=0.02), name
    widths = [config.d_ff for config in configs.values()]
    assert widths[0] > max(widths[1:]), "what a memory costs is taken from the layers beside it"


def test_what_guessing_gets_is_not_held() -> None:
    assert held(WHOLE, 1 / 64) == 0.0
    assert held(WHOLE, 0.0) == 0.0
    assert held(WHOLE, 1.0) == WHOLE.facts
    assert held(WHOLE, 65 / 128) == pytest.approx(WHOLE.facts / 2)


def test_every_kind_tries_as_many_rates() -> None:
    for size in (WHOLE, SMOKE):
        assert set(size.rules) == set(kinds(size))
        assert {len(tried) for tried in size.rules.values()} == {2}
    assert str(Rates(0.01, {})) == "rate 0.01"
    tables = Rates(0.01, {"decoder/(embedding|output)": 3.0})
    assert str(tables) == "rate 0.01, embedding and output 3 times"
    told = str(Rates(0.03, {"knowledge/values": 10.0, "knowledge/query/w": 0.3}))
    assert told == "rate 0.03, values 10 times, query/w 0.3 times"


def test_ratios_are_paired_by_seed() -> None:
    configs = kinds(SMOKE)
    ran = {"dense": [Ran(10.0, 1.0), Ran(20.0, 1.0)], "ngram": [Ran(40.0, 1.0), Ran(20.0, 1.0)]}
    told = results(SMOKE, configs, ran)
    found = {result.name: result for result in told}
    ratio = found["ngram/facts over dense"]
    assert (ratio.value, ratio.spread, ratio.holds) == (2.5, (1.0, 4.0), True)
    assert found["dense/facts"].value == 15.0
    assert "dense/facts over dense" not in found


@pytest.mark.slow
def test_the_study_runs(tmp_path: Path) -> None:
    out = tmp_path / "facts.json"
    assert main(["memory_facts", "--smoke", "--out", str(out)]) == 0
    found = {result.name: result for result in read_results(out).results}
    for name in kinds(SMOKE):
        assert 0 <= found[f"{name}/facts"].value <= SMOKE.facts
        assert found[f"{name}/CPU of training"].value > 0
