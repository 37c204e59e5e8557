"""Rows of which a part needs a table, by hand, and the study at a tiny size."""

from pathlib import Path

import jax
import numpy as np

from rtdlm.evaluation.results import read_results
from studies import controller_calls as study
from studies.__main__ import main
from studies.controller_calls import ALWAYS, CALLED, NAMES, NONE, config_of, draw, facts


def test_facts_and_rules_stand_where_they_are_said_to() -> None:
    rows = draw(jax.random.key(0), batch=40)
    ids, labels, needed, ruled = (np.asarray(x) for x in rows[:4])
    known = facts()
    np.testing.assert_array_equal(ids[:, 1:], labels[:, :-1])
    for b in range(40):
        for t in range(1, study.LENGTH):
            before, own, after = ids[b, t - 1], ids[b, t], labels[b, t]
            in_b = NAMES <= own < 2 * NAMES
            assert needed[b, t] == in_b
            if in_b:
                assert after == 2 * NAMES + known[before, own - NAMES]
            if ruled[b, t]:
                assert after == 3 * NAMES + (own - 3 * NAMES + 1) % NAMES
    share = needed.mean()
    assert abs(share - 1 / 6) < 0.02 and abs(ruled.mean() - 2 * share) < 0.05


def test_sides_differ_in_who_reads_the_table() -> None:
    called, always, none = (config_of(side) for side in (CALLED, ALWAYS, NONE))
    assert called.called == ("knowledge",) and not always.called and not none.called
    assert none.knowledge.kind == "none"
    for name in ("kind", "rows", "heads", "dim", "orders"):
        assert getattr(called.knowledge, name) == getattr(always.knowledge, name)


def test_it_runs(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert main(["controller_calls", "--smoke", "--out", str(out)]) == 0
    found = {result.name: result for result in read_results(out).results}
    whole = found["called, thorough/operations a token"].value
    assert found["called, fast/operations a token"].value < whole
    assert found["called, thorough/tokens that call where it is needed"].value == 100
    assert found["called, fast/elsewhere"].bar == study.ELSEWHERE
