import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rtdlm.config.errors import UserError
from rtdlm.data import Batch, Loader, Tokenizer, byte_tokenizer, train_bpe
from rtdlm.data.mixture import PERIOD
from tests.data.corpora import prepare_bytes, write_prepared, write_rows, write_stories

N, T, B = 203, 8, 4  # Tokens of the stream, of a row; rows of a batch.
W = 26  # ceil(N / T)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ring(tmp_path_factory) -> Path:
    """A stream whose ids are their places: 0, ..., 202 in two shards."""
    ids = np.arange(N)
    return write_prepared(
        tmp_path_factory.mktemp("ring") / "out",
        {"train": [ids[:90], ids[90:]], "heldout": [np.arange(50)]},
        vocab_size=N,
        document_id=0,
    )


def loader(*directories: Path, weights=(), seed: int = 0, **arguments) -> Loader:
    settings = {"seq_len": T, "batch_size": B} | arguments
    return Loader(directories, weights, seed=seed, **settings)


def rows_of(loader: Loader, start: int, stop: int) -> Batch:
    """Rows `start`, ..., `stop` - 1 of the run."""
    steps = range(start // B, -(-stop // B))
    arrays = zip(*(loader.batch(step) for step in steps), strict=True)
    first = steps[0] * B
    return Batch(*(np.concatenate(array)[start - first : stop - first] for array in arrays))


def assert_equal(left: Batch, right: Batch) -> None:
    for name, a, b in zip(Batch._fields, left, right, strict=True):
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)


def digest(batch: Batch) -> str:
    return hashlib.sha256(
        b"".join(np.ascontiguousarray(array).tobytes() for array in batch)
    ).hexdigest()


def test_each_epoch_has_every_token_once_and_its_own_order_and_boundaries(ring) -> None:
    data = loader(ring)
    assert (data.rows_per_epoch, data.tokens_per_epoch) == (W, N)
    assert data.steps_per_epoch == W / B  # Epochs end within batches.
    orders, shifts = set(), set()
    for epoch in range(6):
        batch = rows_of(data, epoch * W, (epoch + 1) * W)
        real = batch.weights == 1
        assert sorted(batch.input_ids[real]) == list(range(N))
        assert sorted(batch.labels[real]) == list(range(N))
        np.testing.assert_array_equal(batch.labels[real], (batch.input_ids[real] + 1) % N)
        orders.add(tuple(batch.input_ids[:, 0]))
        full = real.all(axis=1) & (batch.input_ids[:, 0] < batch.input_ids[:, -1])
        shifts.add(int(batch.input_ids[full][:, 0].min()) % T)
    assert len(orders) == 6
    assert len(shifts) > 2
    assert sum(not row.all() for row in rows_of(data, 0, W).weights) == 1  # 203 = 25 * 8 + 3


def test_a_batch_depends_on_seed_and_step_alone(ring) -> None:
    forward = [digest(loader(ring).batch(step)) for step in range(30)]
    data = loader(ring)
    backward = [digest(data.batch(step)) for step in reversed(range(30))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 30
    assert forward != [digest(loader(ring, seed=1).batch(step)) for step in range(30)]


def test_a_fresh_process_builds_the_same_batch(ring) -> None:
    script = (
        "import sys, hashlib, numpy as np\n"
        "from rtdlm.data import Loader\n"
        f"batch = Loader([sys.argv[1]], seq_len={T}, batch_size={B}, seed=0).batch(1234567)\n"
        "data = b''.join(np.ascontiguousarray(array).tobytes() for array in batch)\n"
        "print(hashlib.sha256(data).hexdigest())\n"
        "assert 'jax' not in sys.modules, 'reading data needs no JAX'\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(ring)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stderr == ""
    assert result.stdout.strip() == digest(loader(ring).batch(1234567))


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
def test_hosts_build_their_rows_of_one_batch(ring, tmp_path, num_hosts) -> None:
    other = write_rows(tmp_path / "x" / "a.safetensors", np.arange(60).reshape(6, 10)).parent
    data = loader(ring, other, weights=(2, 1), vocab_size=N)
    each = B // num_hosts
    for step in (0, 6, 7, 1000):  # Step 6 ends an epoch.
        parts = [data.rows(step, host * each, (host + 1) * each) for host in range(num_hosts)]
        joined = Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        assert_equal(joined, data.batch(step))


@pytest.fixture
def three(tmp_path) -> list[Path]:
    """Directories whose ids tell them apart."""
    return [
        write_prepared(
            tmp_path / str(number),
            {"train": [np.full(40 * (number + 1), number)], "heldout": [np.full(16, number)]},
            vocab_size=3,
        )
        for number in range(3)
    ]


def test_without_weights_directories_are_one(three) -> None:
    data = loader(*three)
    assert data.rows_per_epoch == 5 + 10 + 15
    for epoch in range(3):
        batch = rows_of(data, epoch * 30, (epoch + 1) * 30)
        assert np.bincount(batch.input_ids[:, 0]).tolist() == [5, 10, 15]


def test_weights_are_met_exactly(three) -> None:
    data = loader(*three, weights=(1, 1, 6), batch_size=8)
    ids = np.concatenate([data.batch(step).input_ids[:, 0] for step in range(PERIOD // 8)])
    assert np.bincount(ids).tolist() == [512, 512, 3072]
    assert all(np.bincount(data.batch(step).input_ids[:, 0]).max() == 6 for step in range(20))


def test_a_weighted_source_has_its_own_epochs(ring, three) -> None:
    data = loader(ring, three[0], weights=(3, 1))
    rows = rows_of(data, 0, 400)
    of_ring = [row for row in range(400) if len(set(rows.input_ids[row])) > 2]
    assert 299 <= len(of_ring) <= 301
    for epoch in range(300 // W):
        chosen = of_ring[epoch * W : (epoch + 1) * W]
        real = rows.weights[chosen] == 1
        assert sorted(rows.input_ids[chosen][real]) == list(range(N))


def test_held_out_batches_cover_the_split_in_order(ring) -> None:
    batches = loader(ring).held_out_batches()
    assert len(batches) == 2  # 50 tokens are 7 rows.
    joined = Batch(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    real = joined.weights == 1
    np.testing.assert_array_equal(joined.input_ids[real], np.arange(50))
    np.testing.assert_array_equal(joined.labels[real], (np.arange(50) + 1) % 50)
    assert joined.weights.shape == (8, T)
    assert joined.weights.sum(axis=1).tolist() == [8, 8, 8, 8, 8, 8, 2, 0]
    assert not any(array[7].any() for array in joined)


def test_fewer_held_out_batches_are_spread_over_the_split(ring) -> None:
    batches = loader(ring, batch_size=2).held_out_batches(2)
    assert len(batches) == 2
    assert [batch.input_ids[:, 0].tolist() for batch in batches] == [[0, 8], [24, 40]]
    assert len(loader(ring, batch_size=2).held_out_batches(99)) == 4


def test_held_out_batches_are_the_same_every_time(ring, three) -> None:
    first = [digest(batch) for batch in loader(ring, three[1]).held_out_batches()]
    for data in (loader(ring, three[1], seed=3), loader(ring, three[1], split="heldout")):
        batches = data.held_out_batches()
        assert [digest(batch) for batch in batches] == first
        assert digest(batches[-1]) == first[-1]
        halves = [batches.rows(1, 0, 2), batches.rows(1, 2, 4)]
        joined = Batch(*(np.concatenate(arrays) for arrays in zip(*halves, strict=True)))
        assert digest(joined) == first[1]
        assert [digest(batch) for batch in batches[1:]] == first[1:]


def test_a_loader_can_read_the_held_out_split(ring) -> None:
    data = loader(ring, split="heldout")
    batch = rows_of(data, 0, 7)
    assert sorted(batch.input_ids[batch.weights == 1]) == list(range(50))


def test_prepared_text_comes_back(tmp_path, shared_data) -> None:
    book = shared_data / "tinyshakespeare.txt"
    manifest = prepare_bytes([book], tmp_path / "out", held_out_fraction=0.1)
    data = loader(tmp_path / "out", seq_len=256, batch_size=16)
    tokenizer = data.tokenizer()
    assert tokenizer is not None
    text = book.read_text(encoding="utf-8")
    for row in data.batch(5).input_ids:
        for document in np.split(row, np.flatnonzero(row == data.document_id)):
            assert tokenizer.decode(document) in text
    assert manifest.totals["train"].tokens == data.tokens_per_epoch
    assert data.bytes_per_token == pytest.approx(1, abs=1e-3)
    held_out = data.held_out_batches()
    assert sum(batch.weights.sum() for batch in held_out) == manifest.totals["heldout"].tokens


def test_foreign_rows_are_shuffled_whole(tmp_path) -> None:
    ids = np.arange(70).reshape(7, 10)
    for name in ("train", "heldout"):
        write_rows(tmp_path / f"{name}.safetensors", ids)
    data = loader(tmp_path, seq_len=5, vocab_size=70)
    assert (data.rows_per_epoch, data.tokens_per_epoch, data.document_id) == (14, 63, None)
    assert (data.tokenizer(), data.bytes_per_token) == (None, None)
    for epoch in range(3):
        batch = rows_of(data, epoch * 14, (epoch + 1) * 14)
        assert sorted(batch.input_ids[batch.weights == 1]) == sorted(ids[:, :-1].ravel())


def test_the_vocabulary_is_known(tmp_path, ring) -> None:
    assert loader(ring).vocab_size == N
    assert loader(ring, vocab_size=1000).vocab_size == N
    with pytest.raises(UserError, match="has a vocabulary of 203 ids, more than vocab_size=202; s"):
        loader(ring, vocab_size=202)
    write_rows(tmp_path / "a.safetensors", np.full((9, 4), 300))
    with pytest.raises(UserError, match=r"its vocabulary is unknown; set vocab_size"):
        loader(tmp_path)
    byte_tokenizer().save(tmp_path)
    assert loader(tmp_path).vocab_size == 257
    with pytest.raises(UserError, match="holds id 300 at .* but the vocabulary has 257 ids"):
        loader(tmp_path).batch(0)


def test_the_fingerprint_names_the_data(ring, three) -> None:
    prints = [
        loader(ring).fingerprint, loader(three[0]).fingerprint,
        loader(ring, three[0]).fingerprint, loader(three[0], ring).fingerprint,
    ]  # fmt: skip
    assert len(set(prints)) == 4
    assert loader(ring, seed=5, seq_len=3).fingerprint == prints[0]


def test_what_does_not_belong_together_is_refused(tmp_path, ring) -> None:
    stories = write_stories(tmp_path / "text", count=50)
    prepare_bytes([stories], tmp_path / "bpe", tokenizer="bpe", vocab_size=300)
    with pytest.raises(UserError, match=r"were made with different tokenizers; prepare both with"):
        loader(ring, tmp_path / "bpe")


def test_bad_arguments_are_refused(tmp_path, ring) -> None:
    with pytest.raises(UserError, match="no shards were named"):
        loader()
    with pytest.raises(UserError, match=r"weights \[1, 2\] do not fit 1 directories"):
        loader(ring, weights=(1, 2))
    with pytest.raises(UserError, match=r"weights \[0\] do not fit 1 directories; .* positive"):
        loader(ring, weights=(0,))
    with pytest.raises(UserError, match="seq_len=0 and batch_size=4 must be at least 1"):
        loader(ring, seq_len=0)
    with pytest.raises(UserError, match="split 'test' is unknown; use one of train, heldout"):
        loader(ring, split="test")
    with pytest.raises(UserError, match=r"nowhere is not a directory; give one that holds shards"):
        loader(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no shards"):
        loader(tmp_path)


def test_an_empty_split_is_refused(tmp_path) -> None:
    root = write_prepared(tmp_path / "out", {"train": [np.arange(9)], "heldout": []}, vocab_size=9)
    data = loader(root)
    with pytest.raises(UserError, match="has no rows in its heldout split; add text and prepare"):
        data.held_out_batches()


def test_an_unfinished_directory_is_refused(tmp_path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="is only partly prepared; run the same prepare command"):
        loader(tmp_path)


def test_a_tokenizer_travels_with_the_shards(tmp_path) -> None:
    stories = write_stories(tmp_path / "text", count=50)
    manifest = prepare_bytes([stories], tmp_path / "out", tokenizer="bpe", vocab_size=300)
    tokenizer = loader(tmp_path / "out").tokenizer()
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.hash == manifest.tokenizer_sha256
    assert tokenizer.hash != train_bpe(["x"], 300).hash
