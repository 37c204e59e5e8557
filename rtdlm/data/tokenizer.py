"""Text to token ids and back: one class over one format, Hugging Face's `tokenizer.json`.

    kind            vocabulary                                    made by
    byte            the 256 bytes (id = byte) and `<|document|>`  `byte_tokenizer`
    bpe             byte-level BPE (arXiv 1508.07909), trained    `train_bpe`
    tokenizer.json  whatever the file holds                       `read_tokenizer`

One special token, the *document token*, stands between documents and nowhere else, so that it is
what the last token of a document predicts: the end. A document begins with it, or behind it with
what the file's template puts before a text. Neither ever comes from text: text that spells them is
encoded as ordinary characters.
"""

import json
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from rtdlm.config.errors import UserError
from rtdlm.disk import hash_bytes, replace_file

TOKENIZER_FILE = "tokenizer.json"
DOCUMENT_TOKEN = "<|document|>"
MIN_VOCAB_SIZE = 257  # The bytes and the document token.
MAX_VOCAB_SIZE = 1 << 20  # Training a larger one would take more memory than machines have.

# Tried in order when a file brings no document token of ours.
_DOCUMENT_TOKENS = (
    DOCUMENT_TOKEN, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]",
    "<|begin_of_text|>", "<s>", "<bos>", "[BOS]",
)  # fmt: skip

# What a file says of whole rows, which we make ourselves, and nothing of a text's own tokens.
_OF_ROWS = ("post_processor", "truncation", "padding")

# How GPT-4 splits text before merging: words with their leading space, at most three digits,
# punctuation with its line ends, runs of space. A piece that ends in "\n" before a line that is
# not blank ends such a split too, so that cutting a document there leaves its tokens as they are.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Tokenizer:
    """Encodes text to ids in [0, vocab_size) and decodes ids to text.

    Attributes:
        vocab_size: largest id plus one [tokens].
        document_id: id of the document token.
        document_token: its text, `<|document|>` unless a loaded file names its own.
        begin_ids: what stands before a text: what the file's own template says, or the document
            token, unless `with_roles` says otherwise.
        end_ids: tokens of which any ends a text; the document token, unless `with_roles` does.
        definition: content of the `tokenizer.json` that `save` writes.
        hash: SHA-256 of it.
    """

    def __init__(self, definition: bytes, *, name: str = TOKENIZER_FILE) -> None:
        """Reads the content of a `tokenizer.json`; `name` is what errors call it."""
        try:
            self._engine = Engine.from_str(definition.decode("utf-8"))
        except Exception as error:  # The library raises bare Exception.
            reason = " ".join(str(error).split())
            raise UserError(
                f"{name} is not a readable Hugging Face tokenizer.json: {reason}; give `byte`, "
                "`bpe` or the path of a tokenizer.json"
            ) from None
        found = _document_token(self._engine)
        if found is None:
            found = DOCUMENT_TOKEN
            self._engine.add_special_tokens([AddedToken(found, special=True, normalized=False)])
            definition = self._engine.to_str(pretty=True).encode("utf-8")
        self.definition = definition
        # These three are settings of the engine, not of the vocabulary.
        self._engine.no_truncation()
        self._engine.no_padding()
        self._engine.encode_special_tokens = True
        self.document_token = found
        vocabulary = self._engine.get_vocab(with_added_tokens=True)
        self.document_id = vocabulary[found]
        self.vocab_size = max(vocabulary.values()) + 1
        self.hash = hash_bytes(definition)
        self.begin_ids = self._own_begin_ids = self.template_ids or (self.document_id,)
        self.end_ids: tuple[int, ...] = (self.document_id,)

    def with_roles(self, *, begin_ids: Sequence[int], end_ids: Sequence[int]) -> "Tokenizer":
        """The same tokenizer for a model that knows the start and end of texts by other tokens."""
        found = copy(self)
        found.begin_ids, found.end_ids = tuple(begin_ids), tuple(end_ids)
        return found

    @property
    def boundary_ids(self) -> tuple[int, ...]:
        """What stands between two documents: what ends one, then what begins the next.

        By the file alone, whatever `with_roles` says. The document token, unless documents begin
        with another: then that comes behind it, such as `</s><s>`.
        """
        begin = self._own_begin_ids
        return begin if self.document_id in begin else (self.document_id, *begin)

    @property
    def start_id(self) -> int:
        """The first token of every document; it stands nowhere else."""
        return self._own_begin_ids[0]

    def encodes_like(self, other: "Tokenizer") -> bool:
        """Whether both give every text the same ids, and documents the same beginning and end."""
        if self.hash == other.hash:
            return True
        if self.boundary_ids != other.boundary_ids:
            return False
        ours, theirs = (json.loads(found.definition) for found in (self, other))
        for tree in (ours, theirs):
            for name in _OF_ROWS:
                tree.pop(name, None)
        return bool(ours == theirs)

    @property
    def template_ids(self) -> tuple[int, ...]:
        """What the file's own template puts before a text; () where it has none."""
        whole = self._engine.encode("a", add_special_tokens=True)
        count = next((n for n, special in enumerate(whole.special_tokens_mask) if not special), 0)
        return tuple(whole.ids[:count])

    def name_of(self, token: int) -> str:
        """How the vocabulary spells a token."""
        return str(self._engine.id_to_token(token))

    def prompt(self, text: str) -> np.ndarray:
        """Ids of a text to go on with, int32 [tokens], with what begins it; at least one."""
        ids = np.concatenate([np.array(self.begin_ids, np.int32), self.encode(text)])
        return ids if len(ids) else np.array([self.document_id], np.int32)

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text, int32 [tokens], without a document token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32 [tokens]; runs on all cores (see RAYON_NUM_THREADS)."""
        encodings = self._engine.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Text of ids; special tokens have none. Bytes that are no UTF-8 become U+FFFD."""
        return self._engine.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, directory: str | Path) -> Path:
        """Writes `tokenizer.json` into `directory`; returns its path."""
        path = Path(directory) / TOKENIZER_FILE
        replace_file(path, self.definition)
        return path

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """The tokenizer that `save` left in `directory`."""
        return read_tokenizer(Path(directory) / TOKENIZER_FILE)


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a Hugging Face `tokenizer.json`.

    Its document token is `<|document|>`, else its own end-of-text or begin-of-text token, else a
    `<|document|>` that is added behind its vocabulary.
    """
    try:
        definition = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(
            f"tokenizer {path} cannot be read: {error.strerror}; give `byte`, `bpe` or the path "
            "of a tokenizer.json"
        ) from None
    return Tokenizer(definition, name=str(path))


def byte_tokenizer() -> Tokenizer:
    """One token a byte, id = byte value, and the document token at 256."""
    vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
    engine = Engine(models.BPE(vocab=vocabulary, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    engine.decoder = decoders.ByteLevel()
    return Tokenizer(engine.to_str(pretty=True).encode("utf-8"))


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with at most `vocab_size` ids; the document token is 0.

    A corpus with too few distinct words gives a smaller vocabulary. The same texts give the same
    vocabulary, whatever their order.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"vocab_size={vocab_size} is too small for a bpe tokenizer: the bytes and the "
            f"document token alone are {MIN_VOCAB_SIZE} tokens; use at least {MIN_VOCAB_SIZE}"
        )
    if vocab_size > MAX_VOCAB_SIZE:
        raise UserError(
            f"vocab_size={vocab_size} is too large for a bpe tokenizer; use at most "
            f"{MAX_VOCAB_SIZE}"
        )
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(DOCUMENT_TOKEN, special=True, normalized=False)],
        initial_alphabet=_byte_characters(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return Tokenizer(engine.to_str(pretty=True).encode("utf-8"))


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


def _document_token(engine: Engine) -> str | None:
    special = {
        token.content for token in engine.get_added_tokens_decoder().values() if token.special
    }
    return next((token for token in _DOCUMENT_TOKENS if token in special), None)
