"""Walks the config's fields: dotted names, types, defaults and documentation, from one source."""

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple, get_type_hints

from docstring_parser import parse_from_object

from rtdlm.config.agi import AGIConfig


class FieldDoc(NamedTuple):
    """One option of a run: dotted name, type as written, default and what it means."""

    name: str
    type: str
    default: Any
    doc: str


def _type_name(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    text = text.replace("typing.", "")
    # A choice that may be left open prints otherwise than every other optional type.
    return f"{text[9:-1]} | None" if text.startswith("Optional[") else text


def _walk(section: type, prefix: str) -> Iterator[FieldDoc]:
    hints = get_type_hints(section)
    docs = {param.arg_name: param.description for param in parse_from_object(section).params}
    for item in fields(section):
        hint = hints[item.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _walk(hint, f"{prefix}{item.name}.")
            continue
        default = item.default
        if item.default_factory is not MISSING:
            default = item.default_factory()
        text = " ".join((docs.get(item.name) or "").split())
        yield FieldDoc(prefix + item.name, _type_name(hint), default, text)


@cache
def field_docs() -> tuple[FieldDoc, ...]:
    """Every option of `AGIConfig` in order of declaration, sections as dotted names."""
    return tuple(_walk(AGIConfig, ""))


ABBREVIATIONS = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "steps": "num_steps",
    "epochs": "num_epochs",
    "tokens": "num_tokens",
    "batch": "batch_size",
    "seq_len": "max_seq_len",
    "dropout": "dropout_rate",
    "dtype": "precision.compute",
}


def nearest(name: str) -> str:
    """A sentence end that names the field most like `name`: the misplaced one first."""
    known = [doc.name for doc in field_docs()]
    leaf = name.rsplit(".", 1)[-1]
    misplaced = [key for key in known if key.rsplit(".", 1)[-1] == leaf]
    leaves = {key.rsplit(".", 1)[-1]: key for key in known}
    similar = [leaves[match] for match in get_close_matches(leaf, leaves, n=1)]
    similar += get_close_matches(name, known, n=1)
    meant = [ABBREVIATIONS[leaf]] if leaf in ABBREVIATIONS else []
    candidates = misplaced or meant or similar
    if candidates:
        return f"did you mean {candidates[0]!r}?"
    return "run `python -m rtdlm.train --help` for the list"
