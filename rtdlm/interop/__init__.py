"""Models from elsewhere and for elsewhere."""

from rtdlm.interop.checkpoint import export_checkpoint
from rtdlm.interop.hugging_face import (
    Pretrained,
    describe_pretrained,
    foreign_config,
    hash_pretrained,
    read_pretrained,
    write_pretrained,
)
from rtdlm.interop.llama2c import read_llama2c, read_llama2c_tokenizer
from rtdlm.interop.quantized_model import read_quantized_model, write_quantized_model

__all__ = [
    "Pretrained",
    "describe_pretrained",
    "export_checkpoint",
    "foreign_config",
    "hash_pretrained",
    "read_llama2c",
    "read_llama2c_tokenizer",
    "read_pretrained",
    "read_quantized_model",
    "write_pretrained",
    "write_quantized_model",
]
