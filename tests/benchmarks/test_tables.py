from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.tables import documents, result_files, update_tables
from rtdlm.config import UserError
from rtdlm.evaluation.results import Result, fill_tables, tables_shown, write_results

MISSED = {
    "memory_heads": [
        "recurrent/below every seed without memory",
        "episodic/below every seed without memory",
    ],
    "memory_heads-800": [
        "recurrent/below every seed without memory",
        "episodic/below every seed without memory",
        "episodic/below none with the same seed, least",
    ],
    "memory_turns": [
        "MTM beside MTM cleared, each at its best rate/forgotten less than in every seed"
    ],
    "scaling-weak": [
        f"weak, fsdp, muon, cpu:{n}, one row a device/arithmetic, change" for n in (64, 512)
    ],
    "step": [
        "small GPT, 1 thread/torch eager over ours, CPU",
        "small GPT, 1 thread/torch compiled over ours, CPU",
        "small, our default block, 1 thread/torch compiled over ours, CPU",
        "tiny preset, 1 thread/ours/MFU, float32 peak",
        "tiny preset, 1 thread/torch compiled over ours, CPU",
    ],
}  # fmt: skip
"""Bars that the committed results miss, all of them told in the documents."""


def test_no_other_bar_is_missed() -> None:
    """Who commits results that fall short says so here, and strikes out what holds again."""
    found = {
        name: [result.name for result in file.results if result.holds is False]
        for name, file in result_files(ROOT).items()
    }
    assert {name: missed for name, missed in found.items() if missed} == MISSED


def test_the_documents_agree_with_the_result_files() -> None:
    files = result_files(ROOT)
    for path in documents(ROOT):
        text = path.read_text(encoding="utf-8")
        assert fill_tables(text, files) == text, "run `python -m benchmarks tables`"


def test_every_result_file_is_shown_in_a_document() -> None:
    shown = {name for path in documents(ROOT) for name in tables_shown(path.read_text())}
    assert result_files(ROOT).keys() <= shown


def test_tables_are_filled_from_both_rooms(tmp_path: Path) -> None:
    write_results(tmp_path / "benchmarks/results/step.json", [Result("ours", 1.0, "ms")])
    write_results(tmp_path / "studies/results/muon.json", [Result("with", 2.0, "s")])
    for name, marker in (("performance", "step"), ("evidence", "muon")):
        text = f"# Title\n\n<!-- results:{marker} -->\nSTALE\n<!-- /results -->\nend\n"
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / f"docs/{name}.md").write_text(text)
    paths = update_tables(tmp_path)
    assert [path.name for path in paths] == ["performance.md", "evidence.md"]
    performance, evidence = (path.read_text() for path in paths)
    assert "| ours | 1.00 | ms |" in performance
    assert "| with | 2.00 | s |" in evidence
    assert "STALE" not in performance + evidence
    assert performance.startswith("# Title\n") and performance.endswith("\nend\n")


def test_a_marker_without_results_is_told(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    marked = "<!-- results:speed -->\n<!-- /results -->\n"
    (tmp_path / "docs/performance.md").write_text(marked)
    with pytest.raises(UserError, match="results 'speed', which are not there; there are none"):
        update_tables(tmp_path)
