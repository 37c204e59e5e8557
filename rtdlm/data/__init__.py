"""Text to tokens to shards to batches.

prepare(["my_text/"], "shards", tokenizer="bpe", vocab_size=8192, held_out_fraction=0.02)
loader = Loader(["shards"], seq_len=256, batch_size=8, seed=0)
loader.batch(step)                 # pure: the same for the same seed and step
loader.held_out_batches(8)         # fixed
"""

from rtdlm.data.batch import Batch
from rtdlm.data.held_out import HeldOutBatches
from rtdlm.data.loader import Loader
from rtdlm.data.manifest import Manifest, ShardEntry, Split, Totals, read_manifest
from rtdlm.data.prefetch import Prefetch, prefetch
from rtdlm.data.prepare import PrepareProgress, prepare
from rtdlm.data.shards import verify_shards
from rtdlm.data.sources import PYTHON_LIBRARY
from rtdlm.data.stream_decoder import StreamDecoder
from rtdlm.data.tokenizer import (
    DOCUMENT_TOKEN,
    TOKENIZER_FILE,
    Tokenizer,
    byte_tokenizer,
    read_tokenizer,
    train_bpe,
)
from rtdlm.data.warmup import Warmup, cut_rows

__all__ = [
    "DOCUMENT_TOKEN",
    "PYTHON_LIBRARY",
    "TOKENIZER_FILE",
    "Batch",
    "HeldOutBatches",
    "Loader",
    "Manifest",
    "Prefetch",
    "PrepareProgress",
    "ShardEntry",
    "Split",
    "StreamDecoder",
    "Tokenizer",
    "Totals",
    "Warmup",
    "byte_tokenizer",
    "cut_rows",
    "prefetch",
    "prepare",
    "read_manifest",
    "read_tokenizer",
    "train_bpe",
    "verify_shards",
]
