"""A small run that every command test can look at, made once a session."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from rtdlm import train

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Pack my box with five dozen liquor jugs.",
    "How vexingly quick daft zebras jump!",
    "Sphinx of black quartz, judge my vow.",
)

# Two layers, bytes, eight rows: as small as a real run can be, one row for each fake device. Few
# runs end with a sample: what writes it is traced as long as the step.
SMALL = (
    *("d_model=32", "num_layers=2", "num_heads=2", "num_kv_heads=1", "d_ff=64", "max_seq_len=32"),
    *("evaluation.num_batches=2", "evaluation.every_steps=5", "checkpoint.every_steps=5"),
    *("optimizer.warmup_steps=2", "monitoring.sample_tokens=0", "data.held_out_fraction=0.1"),
)


def arguments(text: Path, out: Path, *more: str, fields: tuple[str, ...] = ()) -> list[str]:
    """Command line of a small run; `fields` replace those of `SMALL`."""
    last = {field.split("=")[0]: field for field in (*SMALL, *fields)}
    return [
        *("--text", str(text), "--out", str(out), "--tokenizer", "byte", *more),
        *("--set", *last.values()),
    ]


def run_in(directory: Path, text: Path, *, steps: int, fields: tuple[str, ...]) -> Path:
    """The output directory of such a run, a new one in `directory`."""
    out = directory / "run"
    assert train.main(arguments(text, out, "--steps", str(steps), fields=fields)) == 0
    return out


SAMPLED = ("monitoring.sample_tokens=8",)


def script_of(name: str) -> Any:
    """The module in `scripts/NAME.py`."""
    file = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_text(directory: Path) -> Path:
    """A directory of forty short documents."""
    directory.mkdir(exist_ok=True)
    for number in range(40):
        lines = [SENTENCES[(number + line * number) % 4] for line in range(6)]
        (directory / f"{number:02}.txt").write_text(f"Document {number}.\n" + "\n".join(lines))
    return directory


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents."""
    return write_text(tmp_path_factory.mktemp("corpus") / "text")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """Output directory of a run of two steps, of a model that other programs read."""
    fields = ("short_conv=0", "value_residual=false")
    return run_in(tmp_path_factory.mktemp("plain"), text, steps=2, fields=fields)


REMEMBERS = (
    *("memory.segment=8", "memory.stm_window=8", "memory.recurrent=gated_delta"),
    *("memory.episodic_slots=16", "warmup.seq_len=16", "warmup.seq_len_steps=7"),
    *("checkpoint.every_steps=6", "num_layers=1", "layer_unroll=1"),
)


@pytest.fixture(scope="session")
def remembering(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """Output directory of a run of eight steps with memory, whose rows grow."""
    return run_in(tmp_path_factory.mktemp("remembering"), text, steps=8, fields=REMEMBERS)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """Output directory of a run of twelve steps."""
    return run_in(tmp_path_factory.mktemp("small"), text, steps=12, fields=SAMPLED)
