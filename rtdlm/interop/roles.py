"""A tokenizer in a folder of Hugging Face's form, with the tokens that begin and end its texts.

    tokenizer.json           the vocabulary; its template says what stands before a text
    tokenizer_config.json    names of the tokens that begin and end a text
    generation_config.json   their ids; any of several may end a text

Ours has one token for both, the document token, and no template: one is written for others, which
then begin a prompt as we do, and taken away again when the folder is read, so that the tokenizer is
the same one, by its hash too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtdlm.config.errors import UserError
from rtdlm.data import TOKENIZER_FILE, Tokenizer, read_tokenizer
from rtdlm.data.tokenizer import DOCUMENT_TOKEN
from rtdlm.disk import replace_file

NAMES_FILE, IDS_FILE = "tokenizer_config.json", "generation_config.json"


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes the three files.

    Raises:
        StorageError: the disk refused.
    """
    definition = tokenizer.definition
    if tokenizer.begin_ids == (tokenizer.document_id,):
        definition = _with_template(definition, tokenizer)
    replace_file(folder / TOKENIZER_FILE, definition)
    roles = tokenizer.begin_ids, tokenizer.end_ids
    begin, end = (tokenizer.name_of(ids[0]) if ids else None for ids in roles)
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": end,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    replace_file(folder / NAMES_FILE, _json({k: v for k, v in names.items() if v is not None}))
    replace_file(folder / IDS_FILE, _json(role_ids(tokenizer)))


def role_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """`bos_token_id` and `eos_token_id` as a configuration has them; None where not known."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None}
    begin, end = tokenizer.begin_ids, tokenizer.end_ids
    return {
        "bos_token_id": begin[0] if begin else None,
        "eos_token_id": end[0] if len(end) == 1 else list(end),
    }


def load_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer | None:
    """The folder's tokenizer; None if there is none.

    Args:
        folder: what `save_tokenizer` or another program wrote.
        config: the model's, where ids are looked up that the folder has no file for.

    Raises:
        UserError: a file cannot be read, or an id is no token.
    """
    file = folder / TOKENIZER_FILE
    if not file.is_file():
        return None
    tokenizer = read_tokenizer(file)
    plain = _without_template(tokenizer.definition, tokenizer)
    if plain is not None:
        tokenizer = Tokenizer(plain, name=str(file))
        begin: tuple[int, ...] = (tokenizer.document_id,)
    elif tokenizer.document_token == DOCUMENT_TOKEN and tokenizer.definition == file.read_bytes():
        begin = (tokenizer.document_id,)  # ours as it is, and not one that was given our token
    else:
        begin = tokenizer.template_ids
    ids = dict(config)
    if (folder / IDS_FILE).is_file():
        try:
            ids |= json.loads((folder / IDS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder / IDS_FILE} cannot be read: {error}") from None
    given = ids.get("eos_token_id")
    end = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(i, int) and 0 <= i < tokenizer.vocab_size for i in end):
        raise UserError(
            f"{folder} has eos_token_id={given!r}, which is no token of its {TOKENIZER_FILE} with "
            f"{tokenizer.vocab_size} tokens; mend {IDS_FILE} or config.json"
        )
    return tokenizer.with_roles(begin_ids=begin, end_ids=end or [tokenizer.document_id])


def _template(tokenizer: Tokenizer) -> dict[str, Any]:
    """The document token, then the text."""
    token = tokenizer.document_token
    start = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, second],
        "special_tokens": {token: {"id": token, "ids": [tokenizer.document_id], "tokens": [token]}},
    }


def _with_template(definition: bytes, tokenizer: Tokenizer) -> bytes:
    tree = json.loads(definition)
    if tree.get("post_processor") is not None:
        return definition
    return _pretty(tree | {"post_processor": _template(tokenizer)})


def _without_template(definition: bytes, tokenizer: Tokenizer) -> bytes | None:
    """What `_with_template` was given; None if this is nothing that it gave."""
    tree = json.loads(definition)
    if tree.get("post_processor") != _template(tokenizer):
        return None
    return _pretty(tree | {"post_processor": None})


def _pretty(tree: Mapping[str, Any]) -> bytes:
    """As the library of tokenizers writes it, byte by byte."""
    return json.dumps(tree, indent=2, ensure_ascii=False).encode()


def _json(tree: Mapping[str, Any]) -> bytes:
    return (json.dumps(tree, indent=2) + "\n").encode()
