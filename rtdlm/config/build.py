"""Builds a config: preset, then file, then overrides, with every key and type checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from rtdlm.config.agi import AGIConfig
from rtdlm.config.errors import UserError
from rtdlm.config.fields import field_docs, nearest
from rtdlm.config.presets import PRESETS

set_parsing_settings(docstring_parse_attribute_docstrings=True)

Tree = dict[str, Any]


def build_config(
    *,
    base: AGIConfig | None = None,
    preset: str | None = None,
    file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> AGIConfig:
    """The config that results from a base or a preset, then a YAML file, then overrides.

    Args:
        base: a whole config to start from.
        preset: a name in `PRESETS`; None starts from the field defaults. A file may name one too,
            under the key `preset`; the argument wins.
        file: YAML with the fields of `AGIConfig`, sections nested or dotted.
        overrides: nested or dotted keys; the last word.

    Raises:
        UserError: unknown preset or key, a value of the wrong type or out of range.
    """
    layers: list[Tree] = [] if base is None else [_nest(base.to_dict())]
    if file is not None:
        tree = read_yaml(file)
        named = tree.pop("preset", None)
        preset = preset or named
        layers.append(_nest(tree))
    if preset is not None:
        layers.insert(0 if base is None else 1, preset_tree(preset))
    layers.append(_nest(overrides or {}))
    merged: Tree = {}
    for layer in layers:
        _release(merged, layer)
        _merge(merged, layer)
    return _instantiate(merged)


def preset_tree(name: str) -> Tree:
    """The fields that preset `name` sets."""
    if isinstance(name, str) and name in PRESETS:
        return dict(PRESETS[name])
    close = get_close_matches(str(name), PRESETS, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(f"unknown preset {name!r}; {hint}presets are {', '.join(PRESETS)}")


def read_yaml(file: str | Path) -> Tree:
    """The mapping in a YAML file."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"config file {file} does not exist; check the path") from None
    except OSError as error:
        raise UserError(f"config file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"config file {file} is not readable YAML: {error}") from None
    tree = _load(text, f"config file {file}")
    if not isinstance(tree, dict):
        raise UserError(
            f"config file {file} holds {type(tree).__name__}, expected key: value lines"
        )
    return tree


def to_yaml(config: AGIConfig) -> str:
    """The resolved config as YAML that `build_config(file=...)` reads back to an equal one."""
    return yaml.safe_dump(_plain(config.to_dict()), sort_keys=False)


def parse_assignments(items: Sequence[str]) -> Tree:
    """`["optimizer.name=adamw", "d_model=64"]` as a tree; values are read as YAML."""
    tree: Tree = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"--set {item!r} has no '='; write --set section.key=value")
        if key.strip() in tree:
            raise UserError(f"--set {key.strip()} is given twice; keep one")
        tree[key.strip()] = _load(text, f"--set {item!r}")
    return tree


def differences(ours: AGIConfig, theirs: AGIConfig) -> dict[str, tuple[Any, Any]]:
    """Dotted field -> (ours, theirs) for every field in which two configs differ."""
    return {
        doc.name: (_get(ours, doc.name), _get(theirs, doc.name))
        for doc in field_docs()
        if _get(ours, doc.name) != _get(theirs, doc.name)
    }


class _YamlLoader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 and inf as numbers and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            problem = f"key {twice[0]!r} is given twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?((\d+\.?\d*|\.\d+)[eE][-+]?\d+|inf|nan)$"),
    list("-+0123456789.in"),
)


def _load(text: str, place: str) -> Any:
    try:
        return yaml.load(text, Loader=_YamlLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{place} is not readable YAML: {reason}") from None


def _get(config: AGIConfig, dotted: str) -> Any:
    value: Any = config
    for part in dotted.split("."):
        value = getattr(value, part)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _nest(tree: Mapping[str, Any]) -> Tree:
    """Checks every key against the known fields and turns dotted keys into nested ones."""
    known, sections = _known()
    nested: Tree = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise UserError(f"option {key!r} is not a name; write section.name: value")
        if key in sections:
            if is_dataclass(value) and not isinstance(value, type):
                value = asdict(value)
            if not isinstance(value, Mapping):
                raise UserError(f"{key} is a section, got {value!r}; set its fields, {key}.NAME")
            unknown = [f"{key}.{name}" for name in value if f"{key}.{name}" not in known]
            twice = [f"{key}.{name}" for name in value if f"{key}.{name}" in tree]
            if twice:
                raise UserError(f"{twice[0]} is given twice, dotted and in its section; keep one")
            layer = {key: dict(value)}
        else:
            unknown = [] if key in known else [key]
            layer = value_at(key, value)
        if unknown:
            raise UserError(f"unknown option {unknown[0]!r}; {nearest(unknown[0])}")
        _merge(nested, layer)
    return nested


def value_at(dotted: str, value: Any) -> Tree:
    """The tree that holds `value` at a dotted key."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _release(base: Tree, layer: Tree) -> None:
    """Drops from `base` what nothing would read once `layer` has changed its governor.

    A preset that sets `num_kv_heads` should not forbid `attention_type=mha` on top; both in one
    layer remain a contradiction that is refused.
    """
    hints = get_type_hints(AGIConfig)
    for name in ("", *_known()[1]):
        readers = hints[name].__dict__.get("READERS", ()) if name else AGIConfig.READERS
        below = base.get(name, {}) if name else base
        above = layer.get(name, {}) if name else layer
        for field, governor, values in readers:
            if governor in above and above[governor] not in values:
                section, _, leaf = field.rpartition(".")
                (below.get(section, {}) if section else below).pop(leaf, None)


def _merge(base: Tree, layer: Tree) -> None:
    _, sections = _known()
    for key, value in layer.items():
        if key in sections:
            base[key] = {**base.get(key, {}), **value}
        else:
            base[key] = value


@cache
def _known() -> tuple[frozenset[str], frozenset[str]]:
    names = frozenset(doc.name for doc in field_docs())
    return names, frozenset(name.split(".")[0] for name in names if "." in name)


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AGIConfig)
    return parser


def _instantiate(tree: Tree) -> AGIConfig:
    """Checks types with jsonargparse, then builds the dataclasses so that they validate."""
    plain = _plain(tree)
    _require_values(plain)
    _, sections = _known()
    # What a field is by default needs no check, and checks are most of the time.
    own = _unlike(plain, _defaults())
    own |= {name: _unlike(own[name], _defaults()[name]) for name in sections & own.keys()}
    try:
        values = _parser().parse_object(own, defaults=False).as_dict()
    except ArgumentError as error:
        raise UserError(_type_error(error, plain)) from None
    hints = get_type_hints(AGIConfig)
    for name in sections:
        values[name] = hints[name](**values.get(name, {}))
    return AGIConfig(**values)


@cache
def _defaults() -> Tree:
    defaults: Tree = _plain(asdict(AGIConfig()))
    return defaults


def _unlike(tree: Tree, other: Tree) -> Tree:
    """What of `tree` has another value or type than in `other`."""

    def same(key: str) -> bool:
        value, usual = tree[key], other.get(key)
        return key in other and type(value) is type(usual) and bool(value == usual)

    return {key: value for key, value in tree.items() if not same(key)}


def _require_values(tree: Tree) -> None:
    """Refuses null for a field that needs a value."""
    for doc in field_docs():
        section, _, leaf = doc.name.rpartition(".")
        values = tree.get(section, {}) if section else tree
        if leaf in values and values[leaf] is None and "None" not in doc.type:
            raise UserError(f"{doc.name} is empty, expected {_words(doc.type)}; give it a value")


def _type_error(error: ArgumentError, tree: Tree) -> str:
    """jsonargparse's complaint in one sentence of our own."""
    named = re.search(r'key "([\w.]+)"', str(error))
    docs = {doc.name: doc for doc in field_docs()}
    if named is None or named[1] not in docs:
        return " ".join(str(error).split())
    value: Any = tree
    for part in named[1].split("."):
        value = value[part]
    return f"{named[1]}={value!r} is no {_words(docs[named[1]].type)}; change the value"


def _words(hint: str) -> str:
    """A type for a person: "int | None" is "int or null"."""
    if hint.startswith("Literal["):
        choices, _, rest = hint[8:].partition("]")
        return f"choice of {choices}{' or null' if rest else ''}"
    return hint.replace(" | None", " or null")
