"""Models in the one-file format of llama2.c, and their tokenizers.

The file is seven int32 (width, hidden width, layers, heads, key-value heads, tokens, longest row)
and float32 arrays, those of all layers one after the other; a negative number of tokens says that
the output table is one of its own. Features 2i and 2i + 1 of a head turn together there, and
features i and i + E/2 here, so that those of queries and keys change places.

A tokenizer file is the longest token's length and, for each token, a score, a length and bytes; of
two neighbours those merge first whose merged token has the highest score.
"""

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Engine

from rtdlm.config import AGIConfig, UserError
from rtdlm.data import Tokenizer
from rtdlm.interop.hugging_face import Pretrained
from rtdlm.interop.llama import LLAMA_LIKE
from rtdlm.interop.slots import Arrays, import_tensors
from rtdlm.models import TMSModel

HEADER = struct.Struct("<7i")
EPSILON = 1e-5
BEGIN, END = "<s>", "</s>"
BEGIN_ID = 1


def read_llama2c(weights: str | Path, tokenizer: str | Path | None = None) -> Pretrained:
    """The model in `weights` and, if it is given, its tokenizer.

    Raises:
        UserError: a file cannot be read or is not of this format.
    """
    data = _read(Path(weights))
    if len(data) < HEADER.size:
        raise UserError(f"{weights} has {len(data)} bytes, too few for a llama2.c model")
    width, hidden, layers, heads, kv_heads, tokens, length = HEADER.unpack_from(data)
    sizes = (width, hidden, layers, heads, kv_heads, abs(tokens), length)
    if min(sizes) < 1 or width % heads or heads % kv_heads or width // heads % 2:
        raise UserError(f"{weights} is not a llama2.c model: its header says {sizes}")
    config = AGIConfig().replace(
        vocab_size=abs(tokens), max_seq_len=length, d_model=width, num_layers=layers,
        num_heads=heads, attention_type="mha" if kv_heads == heads else "gqa",
        num_kv_heads=None if kv_heads == heads else kv_heads, d_ff=hidden, qk_norm=False,
        norm_epsilon=EPSILON, tie_embeddings=tokens > 0,
    )  # fmt: skip
    tensors = _tensors(data[HEADER.size :], config, Path(weights))
    params = import_tensors(LLAMA_LIKE[0].slots(config), tensors, TMSModel(config).shapes)
    read = None if tokenizer is None else read_llama2c_tokenizer(tokenizer, abs(tokens))
    return Pretrained(config, params, read)


def read_llama2c_tokenizer(path: str | Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in `path`, of `vocab_size` tokens.

    Raises:
        UserError: it cannot be read or has fewer tokens.
    """
    data, place, pieces = _read(Path(path)), 4, list[tuple[float, bytes]]()
    try:
        for _ in range(vocab_size):
            score, length = struct.unpack_from("<fi", data, place)
            place += 8
            pieces.append((score, data[place : place + length]))
            place += length
    except struct.error:
        raise UserError(
            f"{path} ends after {len(pieces)} tokens and the model has {vocab_size}; it is not "
            "this model's tokenizer"
        ) from None
    found = Tokenizer(_engine(pieces).to_str().encode(), name=str(path))
    # The reference puts this token before a text and stops where it comes again.
    return found.with_roles(begin_ids=[BEGIN_ID], end_ids=[BEGIN_ID])


def _engine(pieces: list[tuple[float, bytes]]) -> Engine:
    names = [piece.decode("utf-8", errors="replace") for _, piece in pieces]
    # The three first are written with line breaks around them.
    names[:3] = ["<unk>", BEGIN, END]
    vocabulary = {name: number for number, name in enumerate(names)}
    merges: list[tuple[float, tuple[str, str]]] = []
    for (score, _), name in zip(pieces[3:], names[3:], strict=True):
        splits = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
        merges += [(score, s) for s in splits if s[0] in vocabulary and s[1] in vocabulary]
    ordered = [pair for _, pair in sorted(merges, key=lambda merge: -merge[0])]
    engine = Engine(
        models.BPE(vocab=vocabulary, merges=ordered, unk_token="<unk>", byte_fallback=True)
    )
    engine.normalizer = normalizers.Prepend(" ")
    engine.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    engine.add_special_tokens([AddedToken(name, special=True) for name in names[:3]])
    return engine


def _tensors(data: bytes, config: AGIConfig, path: Path) -> Arrays:
    """The arrays by Hugging Face's names."""
    layers, width, hidden = config.num_layers, config.d_model, config.d_ff
    head, kv_width = config.head_dim, config.kv_heads * config.head_dim
    table = (config.vocab_size, width)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": table,
        "input_layernorm": (layers, width),
        "self_attn.q_proj": (layers, width, width),
        "self_attn.k_proj": (layers, kv_width, width),
        "self_attn.v_proj": (layers, kv_width, width),
        "self_attn.o_proj": (layers, width, width),
        "post_attention_layernorm": (layers, width),
        "mlp.gate_proj": (layers, hidden, width),
        "mlp.down_proj": (layers, width, hidden),
        "mlp.up_proj": (layers, hidden, width),
        "model.norm": (width,),
        "cosines and sines": (2, config.max_seq_len, head // 2),
    }
    if not config.tie_embeddings:
        shapes["lm_head"] = table
    counts = [int(np.prod(shape)) for shape in shapes.values()]
    if len(data) != 4 * sum(counts):
        raise UserError(
            f"{path} has {len(data)} bytes of weights, expected {4 * sum(counts)} by its header"
        )
    ends = np.cumsum([0, *counts])
    values = np.frombuffer(data, "<f4").astype(np.float32)
    found: Arrays = {}
    for (name, shape), (start, stop) in zip(shapes.items(), pairwise(ends), strict=True):
        array = values[start:stop].reshape(shape)
        if name.endswith(("q_proj", "k_proj")):
            array = _half_split(array, head)
        if name.startswith(("model.", "lm_head")):
            found[f"{name}.weight"] = array
        elif name != "cosines and sines":
            found |= {f"model.layers.{n}.{name}.weight": own for n, own in enumerate(array)}
    return found


def _half_split(weight: np.ndarray, head: int) -> np.ndarray:
    """`[L, heads * E, D]` with features 2i, 2i + 1 of each head moved to i, i + E/2."""
    layers, _, width = weight.shape
    pairs: Any = weight.reshape(layers, -1, head // 2, 2, width)
    return np.swapaxes(pairs, 2, 3).reshape(weight.shape)


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
