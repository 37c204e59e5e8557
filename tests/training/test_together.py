"""Batches on devices are the loader's, whoever reads which of their rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtdlm.config import AGIConfig, MeshConfig
from rtdlm.data import Batch, Loader, Warmup
from rtdlm.parallel import batch_sharding, make_mesh
from rtdlm.training.together import place_batch
from tests.data.corpora import write_prepared
from tests.parallel.split import Part, note_what_is_placed

T, B, N = 16, 8, 4096
# Rows and pieces of the steps 0, 2, 4, 5 and 10: 2 in 4, 4 in 4, 8 in 4, 8 in 2, 8 whole.
GROWING = {"batch_size": 2, "batch_steps": 4, "seq_len": 4, "seq_len_steps": 10}
STEPS = 12


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream whose ids are their places, with documents that end within rows."""
    ids = np.arange(N)
    ids[::7] = 0
    return write_prepared(
        tmp_path_factory.mktemp("ring") / "out",
        {"train": [ids], "heldout": [np.arange(64)]},
        vocab_size=N,
        document_id=0,
    )


class Noting(Loader):
    """Notes which whole rows are read."""

    reads: list[tuple[int, int]]

    def rows(self, step: int, start: int, stop: int) -> Batch:
        self.reads.append((start, stop))
        return super().rows(step, start, stop)


def loaders(ring: Path, **warmup: int) -> tuple[Loader, Noting, Warmup]:
    config = AGIConfig.from_preset("tiny", batch_size=B, max_seq_len=T, warmup=warmup)
    given: Any = {"seq_len": T, "batch_size": B, "seed": 0, "warmup": Warmup(config)}
    noting = Noting([ring], **given)
    noting.reads = []
    return Loader([ring], **given), noting, Warmup(config)


def test_the_steps_here_cut_rows() -> None:
    warmup = Warmup(AGIConfig.from_preset("tiny", batch_size=B, max_seq_len=T, warmup=GROWING))
    sizes = [(warmup.rows(step), warmup.pieces(step)) for step in range(STEPS)]
    assert sizes == [(2, 4)] * 2 + [(4, 4)] * 2 + [(8, 4)] + [(8, 2)] * 5 + [(8, 1)] * 2


@pytest.mark.parametrize("mesh", [{}, {"data": 2, "context": 4}, {"data": 1, "tensor": 8}])
@pytest.mark.parametrize("warmup", [{}, GROWING])
def test_a_batch_on_the_devices_is_the_loaders(
    ring: Path, mesh: dict[str, int], warmup: dict[str, int]
) -> None:
    plain, noting, growth = loaders(ring, **warmup)
    sharding = batch_sharding(make_mesh(MeshConfig(**mesh)))
    for step in range(STEPS):
        found, expected = place_batch(noting, growth, sharding, step), plain.batch(step)
        assert isinstance(found, Batch)
        for left, right in zip(found, expected, strict=True):
            assert left.sharding == sharding
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(np.asarray(left), right)


@pytest.mark.parametrize(
    ("devices", "reads"),
    [
        # With one device a row at first: a quarter of row 0, parts of both, three quarters of 1.
        ((0, 1), {0: (0, 1), 2: (0, 1), 4: (0, 1), 5: (0, 1), 10: (0, 1)}),
        ((1, 2), {0: (0, 1), 2: (0, 1), 4: (1, 2), 5: (1, 2), 10: (1, 2)}),
        ((3, 6), {0: (0, 2), 2: (1, 3), 4: (3, 6), 5: (3, 6), 10: (3, 6)}),
        ((5, 8), {0: (1, 2), 2: (2, 4), 4: (5, 8), 5: (5, 8), 10: (5, 8)}),
    ],
)
def test_a_process_reads_only_the_rows_that_its_devices_need(
    monkeypatch: pytest.MonkeyPatch,
    ring: Path,
    devices: tuple[int, int],
    reads: dict[int, tuple[int, int]],
) -> None:
    plain, noting, growth = loaders(ring, **GROWING)
    part = Part(batch_sharding(make_mesh(MeshConfig())), *devices)
    note_what_is_placed(monkeypatch)
    for step, rows in reads.items():
        found: Any = place_batch(noting, growth, part, step)
        assert noting.reads.pop() == rows
        assert not noting.reads
        for placed, whole in zip(found, plain.batch(step), strict=True):
            placed.assert_part_of(whole, part)
