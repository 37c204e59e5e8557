"""`python -m benchmarks tables`: tables and pictures of the documents, from the result files."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.pictures import FILE as ATTENTION
from benchmarks.pictures import draw_attention
from rtdlm.disk import replace_file
from rtdlm.evaluation.results import ResultFile, fill_tables, read_results
from studies.pictures import PICTURES, draw_panels

RESULTS = ("benchmarks/results", "studies/results")
DOCUMENTS = (
    "docs/performance.md",
    "docs/reliability.md",
    "docs/attention.md",
    "docs/generation.md",
    "docs/sparse.md",
    "docs/evidence.md",
    "docs/scaling.md",
)


def result_files(root: Path) -> dict[str, ResultFile]:
    """Every committed result file by its name without `.json`."""
    paths = [path for place in RESULTS for path in sorted((root / place).glob("*.json"))]
    files = {path.stem: read_results(path) for path in paths}
    assert len(files) == len(paths), "two result files have one name"
    return files


def documents(root: Path) -> list[Path]:
    """The documents that show results and are there."""
    return [root / name for name in DOCUMENTS if (root / name).is_file()]


def update_tables(root: Path) -> list[Path]:
    """Fills the tables of all documents, draws the pictures; returns what was written.

    Raises:
        UserError: a marker names results that there are not.
    """
    files = result_files(root)
    for path in documents(root):
        text = path.read_text(encoding="utf-8")
        replace_file(path, fill_tables(text, files).encode())
    written = documents(root)
    for name, png in pictures(files).items():
        picture = root / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        replace_file(picture, png)
        written.append(picture)
    return written


def pictures(files: Mapping[str, ResultFile]) -> dict[str, bytes]:
    """Every picture that there are results for, as PNG, by its place."""
    found = {}
    if "attention" in files:
        found[ATTENTION] = draw_attention(files["attention"].results)
    studied = {name: file.results for name, file in files.items()}
    for place, panels in PICTURES.items():
        if there := [panel for panel in panels if panel.study in studied]:
            found[place] = draw_panels(there, studied)
    return found
