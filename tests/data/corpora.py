"""Small corpora and directories of shards that tests are built on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer as Engine
from tokenizers import processors

from rtdlm.data import DOCUMENT_TOKEN, Manifest, Tokenizer, Totals, byte_tokenizer, prepare
from rtdlm.data.manifest import FORMAT, SPLITS, Split, write_manifest
from rtdlm.data.shards import write_shard
from rtdlm.disk import LOCK_FILE

DOCUMENT = 256  # The byte tokenizer's document token.


def write_stories(directory: Path, *, count: int = 60, paragraphs: int = 6) -> Path:
    """Files of distinct text, a few hundred bytes each."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        lines = [
            f"Story {number}, part {part}: the fox saw {number * 7 + part} hens and went home.\n"
            for part in range(paragraphs)
        ]
        (directory / f"story-{number:03d}.txt").write_text("\n".join(lines), encoding="utf-8")
    return directory


def write_stories_and_book(directory: Path) -> Path:
    """Seven short documents, and one of 18 kB that is cut into pieces, between them."""
    write_stories(directory, count=7)
    lines = [f"Chapter {n // 20}, line {n}.\n" + "\n" * (n % 7 == 0) for n in range(720)]
    (directory / "story-004-book.txt").write_text("".join(lines), encoding="utf-8")
    return directory


def begun_by(first: str, *, end: str = "</s>") -> Tokenizer:
    """Bytes, `<s>` and `</s>`, with a template that puts `first` before a text."""
    engine = Engine.from_str(byte_tokenizer().definition.decode().replace(DOCUMENT_TOKEN, "<s>"))
    engine.add_special_tokens([end])
    ids = [(token, engine.token_to_id(token)) for token in ("<s>", end)]
    engine.post_processor = processors.TemplateProcessing(f"{first} $A {end}", None, ids)
    return Tokenizer(engine.to_str().encode())


def prepare_bytes(text: Sequence[Path | str], out: Path, **arguments: Any) -> Manifest:
    """`prepare` with a byte tokenizer and a fifth held out, unless told otherwise."""
    settings = {"tokenizer": "byte", "vocab_size": 512, "held_out_fraction": 0.2} | arguments
    return prepare([str(path) for path in text], out, **settings)


def write_prepared(
    directory: Path,
    streams: Mapping[Split, Sequence[np.ndarray]],
    *,
    vocab_size: int,
    document_id: int = DOCUMENT,
) -> Path:
    """A directory as `prepare` leaves it, with shards of the given ids."""
    directory.mkdir(parents=True)
    dtype = np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
    byte_tokenizer().save(directory)
    shards = [
        write_shard(
            directory / f"{split}-{number:05d}.safetensors",
            ids.astype(dtype),
            split=split,
            documents=int((ids == document_id).sum()),
        )
        for split in SPLITS
        for number, ids in enumerate(streams[split])
    ]
    totals = {split: Totals(sum(map(len, streams[split])), 1, 1000) for split in SPLITS}
    manifest = Manifest(
        format=FORMAT, tokenizer="byte", tokenizer_sha256=byte_tokenizer().hash,
        vocab_size=vocab_size, document_id=document_id, dtype=dtype.name, text=("made",), files=1,
        passed_over={}, totals=totals, shards=tuple(shards),
    )  # fmt: skip
    write_manifest(directory, manifest)
    return directory


def write_rows(path: Path, input_ids: np.ndarray, **extras: np.ndarray) -> Path:
    """A safetensors file as other pipelines write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"input_ids": input_ids, **extras}, path)
    return path


def content(directory: Path) -> dict[str, bytes]:
    """Every file of a directory and its bytes, but for the lock."""
    files = (path for path in sorted(directory.iterdir()) if path.name != LOCK_FILE)
    return {path.name: path.read_bytes() for path in files}
