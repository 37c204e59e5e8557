"""Memories as files: bit for bit, refused when damaged, and read as text."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from rtdlm.checkpoint.bank import MemoryBank
from rtdlm.checkpoint.bank_text import chosen, matching, overview, pieces
from rtdlm.config import UserError
from rtdlm.data import byte_tokenizer
from rtdlm.disk import hash_bytes
from rtdlm.modules.memory import Store, read_store
from tests.modules.memory.stores import BATCH, HEADS, SLOTS, WIDTH, filled

LAYERS = 3


def stores(dtype: jnp.dtype | type = jnp.float32) -> list[Store]:
    random = np.random.default_rng(0)
    made = [filled(random) for _ in range(LAYERS)]
    return [
        s._replace(key_BMHE=s.key_BMHE.astype(dtype), value_BMHE=s.value_BMHE.astype(dtype))
        for s in made
    ]


def saying(text: str, *, slots: int = 64) -> MemoryBank:
    """A memory of one layer that was offered a text in bytes, all of one document."""
    ids = byte_tokenizer().encode(text)
    token, born = np.zeros((2, 1, slots), np.int32)
    for place, number in enumerate(ids):
        token[0, place % slots], born[0, place % slots] = number, place + 1
    return MemoryBank(
        key_LMHE=np.zeros((1, slots, 1, 2), np.float32),
        value_LMHE=np.zeros((1, slots, 1, 2), np.float32),
        label_LM=(born > 0).astype(np.int32),
        token_LM=token,
        born_LM=born,
        used_LM=np.zeros((1, slots), np.float32),
        surprise_LM=np.zeros((1, slots), np.float32),
        clock_L=np.array([len(ids)], np.int32),
        tokenizer=byte_tokenizer().hash,
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_a_memory_comes_back_bit_for_bit(tmp_path: Path, dtype: type) -> None:
    path, before = tmp_path / "one.memory", stores(dtype)
    MemoryBank.from_stores(before, 1, tokenizer="abc").save(path)
    loaded = MemoryBank.load(path)
    assert loaded.tokenizer == "abc"
    empty = [Store.empty(BATCH, SLOTS, HEADS, WIDTH, dtype=dtype) for _ in range(LAYERS)]
    after = loaded.into(empty, 0)
    for old, new in zip(before, after, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(y[0], x[1]), old, new)
        assert [x.dtype for x in old] == [x.dtype for x in new]
        assert all((x[1] == 0).all() for x in new)
    again = tmp_path / "two.memory"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()


def test_others_read_the_file(tmp_path: Path) -> None:
    bank = MemoryBank.from_stores(stores(), 0)
    bank.save(tmp_path / "memory")
    with safe_open(tmp_path / "memory", "numpy") as file:
        assert file.metadata()["format"] == "rtdlm memory"
        np.testing.assert_array_equal(file.get_tensor("key"), bank.key_LMHE)
        assert set(file.keys()) == {
            "key", "value", "label", "token", "born", "used", "surprise", "clock",
        }  # fmt: skip


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def header(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        tree = json.loads(data[8:start])
        change(tree)
        text = json.dumps(tree).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])

    return edit


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "is damaged: its bytes are not those of its checksum; take it from a copy"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is cut short or is not a safe"),
        (lambda path: path.write_bytes(bytes(range(256)) * 9), "is not a safetensors file"),
        (lambda path: path.write_bytes(b""), "is cut short"),
        (lambda path: path.unlink(), "cannot be read: No such file or directory"),
        (header(lambda tree: tree.pop("used")), "damaged: it holds born, clock, key, label"),
        (header(lambda tree: tree["born"].update(dtype="F32")), "born is float32, not int32"),
        (header(lambda tree: tree["key"].update(dtype="I32")), "key is int32, not a float"),
        (header(lambda tree: tree["born"].update(shape=[36, 1])), "born has shape (36, 1), not"),
        (header(lambda tree: tree["__metadata__"].update(version="7")), "version 7, this program"),
        (header(lambda tree: tree.pop("__metadata__")), "is not a memory; give a file"),
    ],
)
def test_what_is_damaged_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "some.memory"
    MemoryBank.from_stores(stores(), 0).save(path)
    damage(path)
    with pytest.raises(UserError) as refused:
        MemoryBank.load(path)
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_token_below_zero_is_refused(tmp_path: Path) -> None:
    bank = MemoryBank.from_stores(stores(), 0)
    path = tmp_path / "some.memory"
    replace(bank, token_LM=bank.token_LM - 1_000).save(path)
    with pytest.raises(UserError, match="damaged: token is negative or no number somewhere"):
        MemoryBank.load(path)


def test_another_models_memory_is_refused() -> None:
    bank = MemoryBank.from_stores(stores(), 0, tokenizer="a" * 64)
    with pytest.raises(
        UserError, match=r"is 3 layers x 12 slots x .* in float32, the model's 2 la"
    ):
        bank.into(stores()[:2], 0)
    with pytest.raises(UserError, match=r"features in float32, the model's .* in bfloat16; use it"):
        bank.into(stores(jnp.bfloat16), 0)
    with pytest.raises(UserError, match="tokens are of tokenizer aaaaaaaaaaaa, this one is bbbbbb"):
        bank.require_tokenizer("b" * 64)
    bank.require_tokenizer("a" * 64)
    MemoryBank.from_stores(stores(), 0).require_tokenizer("b" * 64)


def test_what_is_forgotten_is_as_if_it_never_was(tmp_path: Path) -> None:
    before = stores()
    bank = MemoryBank.from_stores(before, 0)
    gone = chosen(bank, range(LAYERS), None, slots=[1, 5, 11])
    assert gone.sum() == (bank.label_LM[:, [1, 5, 11]] > 0).sum() > 0
    after = bank.forget(gone)
    for name in ("key_LMHE", "value_LMHE", "label_LM", "token_LM", "born_LM", "used_LM"):
        assert (getattr(after, name)[gone] == 0).all()
        np.testing.assert_array_equal(getattr(after, name)[~gone], getattr(bank, name)[~gone])
    query = before[0].key_BMHE[:1, 1:2]
    found = read_store(
        query,
        jax.tree.map(lambda x: x[:1], after.into(before, 0)[0]),
        jnp.ones((1, 1), jnp.int32),
        top_k=SLOTS,
        scale_H=jnp.ones(HEADS),
        null_H=jnp.zeros(HEADS),
        any_label=True,
    )
    assert (np.asarray(found.used_BM)[0, [1, 5, 11]] == 0).all()
    assert (np.asarray(found.used_BM) > 0).sum() == (after.label_LM[0] > 0).sum()


def test_rows_come_in_order_of_birth() -> None:
    bank = MemoryBank.from_stores(stores(), 0)
    rows = bank.rows(1)
    assert [row.born for row in rows] == sorted(bank.born_LM[1][bank.label_LM[1] > 0])
    for row in rows:
        assert bank.token_LM[1, row.slot] == row.token
        assert row.age == bank.clock_L[1] - row.born >= 0


def test_slots_are_found_by_text() -> None:
    bank = saying("Ada lives in Paris. Paris is old.")
    found = matching(bank, 0, byte_tokenizer(), text="Paris")
    assert np.flatnonzero(found).tolist() == [*range(13, 18), *range(20, 25)]
    assert not matching(bank, 0, byte_tokenizer(), text="Rome").any()
    # Characters of several bytes go as a whole, and nothing beside them.
    bank = saying("a€b€")
    found = matching(bank, 0, byte_tokenizer(), text="€")
    assert np.flatnonzero(found).tolist() == [1, 2, 3, 5, 6, 7]
    assert np.flatnonzero(matching(bank, 0, byte_tokenizer(), text="b")).tolist() == [4]
    assert pieces(bank, 0, byte_tokenizer())[3] == "€"


def test_no_word_stands_across_a_gap() -> None:
    bank = saying("abcd")
    holed = bank.forget(chosen(bank, [0], None, slots=[1]))
    assert not matching(holed, 0, byte_tokenizer(), text="ac").any()
    assert matching(holed, 0, byte_tokenizer(), text="cd").sum() == 2


def test_a_ring_that_went_round_is_read_in_order() -> None:
    bank = saying("0123456789", slots=4)
    assert matching(bank, 0, byte_tokenizer(), text="6789").all()


def test_conditions_hold_together() -> None:
    bank = saying("abcabc")
    found = chosen(bank, [0], byte_tokenizer(), text="ab", older_than=2)
    assert np.flatnonzero(found).tolist() == [0, 1]
    for wrong in ({"text": ""}, {"older_than": -1}, {"slots": [64]}):
        with pytest.raises(UserError):
            chosen(bank, [0], byte_tokenizer(), **wrong)


def test_the_overview_says_how_full_it_is() -> None:
    lines = overview(saying("abcd", slots=16)).splitlines()
    assert lines[0] == "1 layers of 16 slots, 1 heads of 2 features, float32"
    assert lines[2].split() == ["0", "4", "25%", "2", "3", "0%", "0.0", "4"]


def test_saving_twice_replaces(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    saying("one").save(path)
    first = hash_bytes(path.read_bytes())
    saying("two").save(path)
    assert hash_bytes(path.read_bytes()) != first
    assert [child.name for child in tmp_path.iterdir()] == ["memory"]
