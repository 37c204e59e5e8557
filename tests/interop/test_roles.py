"""Which tokens begin and end a text: of our tokenizers for others, and of theirs here."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Engine

from rtdlm.config import UserError
from rtdlm.data import Tokenizer, byte_tokenizer, train_bpe
from rtdlm.interop.roles import load_tokenizer, role_ids, save_tokenizer

OURS = {"byte": byte_tokenizer, "bpe": lambda: train_bpe(["to be or not to be", "Zoë"], 280)}


def foreign(folder: Path, **changes: Any) -> Tokenizer:
    """Ours with `<s>` and `</s>` in place of the document token."""
    tree = json.loads(byte_tokenizer().definition)
    for number, name in enumerate(("<s>", "</s>")):
        tree["model"]["vocab"][name] = 256 + number
    like = tree["added_tokens"][0]
    tree["added_tokens"] = [
        like | {"id": 256 + number, "content": name} for number, name in enumerate(("<s>", "</s>"))
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tree | changes))
    found = load_tokenizer(folder, {"bos_token_id": 256, "eos_token_id": [257, 10]})
    assert found is not None
    return found


BEGINS = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {
        "<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]},
        "</s>": {"id": "</s>", "ids": [257], "tokens": ["</s>"]},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OURS)
def test_others_begin_a_prompt_as_we_do_and_we_read_the_same_tokenizer(
    kind: str, tmp_path: Path
) -> None:
    tokenizer = OURS[kind]()
    save_tokenizer(tokenizer, tmp_path)
    written = Engine.from_file(str(tmp_path / "tokenizer.json"))
    assert written.encode("to be").ids == tokenizer.prompt("to be").tolist()
    assert written.encode("", add_special_tokens=True).ids == [tokenizer.document_id]
    names = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert names["bos_token"] == names["eos_token"] == "<|document|>"
    found = load_tokenizer(tmp_path, {})
    assert found is not None
    assert (found.definition, found.hash) == (tokenizer.definition, tokenizer.hash)
    assert found.begin_ids == found.end_ids == (tokenizer.document_id,)


def test_ours_without_a_template_begins_with_the_document_token_too(tmp_path: Path) -> None:
    """As older exports have it."""
    tokenizer = byte_tokenizer()
    tokenizer.save(tmp_path)
    found = load_tokenizer(tmp_path, {})
    assert found is not None and found.hash == tokenizer.hash
    assert found.begin_ids == found.end_ids == (256,)


def test_a_tokenizer_from_elsewhere_begins_by_its_template(tmp_path: Path) -> None:
    tokenizer = foreign(tmp_path, post_processor=BEGINS)
    assert tokenizer.document_token == "</s>"
    assert tokenizer.prompt("a").tolist() == [256, 97]
    assert tokenizer.end_ids == (257, 10)
    again = tmp_path / "again"
    again.mkdir()
    save_tokenizer(tokenizer, again)
    assert (again / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    found = load_tokenizer(again, {"eos_token_id": 3})
    assert found is not None and found.begin_ids == (256,) and found.end_ids == (257, 10)
    assert role_ids(found) == {"bos_token_id": 256, "eos_token_id": [257, 10]}


def test_without_a_template_nothing_begins_a_text(tmp_path: Path) -> None:
    tokenizer = foreign(tmp_path)
    assert tokenizer.begin_ids == ()
    assert tokenizer.prompt("a").tolist() == [97]
    assert tokenizer.prompt("").tolist() == [257]
    assert role_ids(tokenizer)["bos_token_id"] is None


def test_an_end_that_is_no_token_is_refused(tmp_path: Path) -> None:
    byte_tokenizer().save(tmp_path)
    with pytest.raises(UserError, match=r"has eos_token_id=900, which is no token of its tokeniz"):
        load_tokenizer(tmp_path, {"eos_token_id": 900})
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(UserError, match=r"generation_config.json cannot be read"):
        load_tokenizer(tmp_path, {})
