"""Models from elsewhere and for elsewhere."""

from rtdlm.interop.hugging_face import Pretrained, foreign_config, read_pretrained, write_pretrained

__all__ = ["Pretrained", "foreign_config", "read_pretrained", "write_pretrained"]
