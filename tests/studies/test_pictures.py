"""Pictures of studies: each panel finds what its study measured."""

from pathlib import Path

import pytest

from benchmarks.tables import result_files
from rtdlm.evaluation.results import Result
from studies.pictures import FORGETTING, MEMORY, PICTURES, TURNS, Panel, draw_panels, lines

FILES = result_files(Path(__file__).parents[2])
PANELS = [panel for panels in PICTURES.values() for panel in panels if panel.study in FILES]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel.study}: {panel.title}")
def test_panel_shows_two_sides_at_two_places(panel: Panel) -> None:
    """A pattern that no longer fits the names of results would draw an empty panel."""
    found = lines(FILES[panel.study].results, panel.names)
    sides = 1 if "(?P<side>" in panel.names else 0
    assert sum(len(places) > 1 for places in found.values()) > sides, found


def test_lines_take_side_and_place_from_a_name() -> None:
    """Places may be fractions; other results of the study are no part of the panel."""
    results = [
        Result("MTM, rate 0.02/examples when it returns", 24.5, ""),
        Result("MTM, rate 2/examples when it returns", 448, ""),
        Result("MTM, rate 2/forgetting", 98.4, "%"),
    ]
    assert lines(results, TURNS[0].names) == {"MTM": {"0.02": results[0], "2": results[1]}}
    assert lines(results[2:], r"MTM, (?P<at>.*)/forgetting") == {"": {"rate 2": results[2]}}
    assert lines(results, TURNS[1].names) == {"MTM": {"2": results[2]}}


@pytest.mark.parametrize(
    "panels", [MEMORY[:1], FORGETTING, TURNS], ids=["memory", "forgetting", "turns"]
)
def test_pictures_are_png_and_the_same_each_time(panels: tuple[Panel, ...]) -> None:
    """Drawing twice gives the same bytes, so that unchanged results leave a picture unchanged."""
    studies = {name: file.results for name, file in FILES.items()}
    png = draw_panels(panels, studies)
    assert png.startswith(b"\x89PNG") and png == draw_panels(panels, studies)
