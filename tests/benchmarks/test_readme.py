"""Numbers that the README quotes in its sentences are those of the committed results."""

import re

import pytest

from benchmarks import ROOT
from benchmarks.tables import result_files

QUOTED = {
    r"in (N) % of cases without": ("memory_recall", "none/right, 128 segments"),
    r"(N) % with a matrix a head": ("memory_recall", "gated delta/right, 128 segments"),
    r"(N) % with a store": ("memory_recall", "episodic, short rows only/right, 128 segments"),
    r"loses 0 to (N) points": ("controller", "bars/addition/loose: lost to all steps"),
    r"all steps for \[(N) % of their": ("controller", "bars/addition/loose: cost"),
    r"2,000 steps \| (N)x sooner \| anything": ("time-to-loss", "ours, free/sooner, CPU"),
    r"the same \| (N)x sooner": ("time-to-loss", "ours, same class/sooner, CPU"),
    r"recipe tuned first \| (N)x sooner": ("time-to-loss", "ours, tuned peer/sooner, CPU"),
    r"10,000 steps \| (N)x sooner": ("time-to-loss", "ours, long/sooner, CPU"),
    r"float32 (N) times as fast as eager": (
        "step", "tiny preset, 1 thread/torch eager over ours, CPU",
    ),
    r"and (N) times as compiled, for a GPT": (
        "step", "tiny preset, 1 thread/torch compiled over ours, CPU",
    ),
    r"width 128 (N) and": ("step", "small GPT, 1 thread/torch eager over ours, CPU"),
    r"width 128 [\d.]+ and (N) times": (
        "step", "small GPT, 1 thread/torch compiled over ours, CPU",
    ),
    r"makes ours (N) times as fast": (
        "step", "tiny preset, 1 thread/our float32 over our bfloat16, CPU",
    ),
    r"tokens is (N) times as fast as dense": (
        "attention", "compared, float32, 1 thread/sliding/dense over it at T 4096, CPU",
    ),
    r"of one text (N) times": ("decode", "batch 1, 1 thread/ours over torch, standard loop"),
    r"for every token, (N) times": ("decode", "batch 1, 1 thread/ours over torch, cached loop"),
}  # fmt: skip
"""A piece of the text with the number at N, and the result file and result it is of."""


@pytest.mark.parametrize("piece", QUOTED)
def test_a_quoted_number_is_that_of_its_result(piece: str) -> None:
    file, name = QUOTED[piece]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    quoted = re.findall(piece.replace("N", r"[\d.]*\d"), text)
    assert len(quoted) == 1, "the README says it in other words now"
    value = next(result.value for result in result_files(ROOT)[file].results if result.name == name)
    decimals = len(quoted[0].partition(".")[2])
    assert quoted[0] == f"{value:.{decimals}f}"
