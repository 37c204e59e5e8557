"""Embeddings: tables that turn token ids and positions into vectors."""

from rtdlm.modules.embedding.ngram import NgramTables, ngram_rows
from rtdlm.modules.embedding.table import lookup

__all__ = ["NgramTables", "lookup", "ngram_rows"]
