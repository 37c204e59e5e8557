"""What a layer's parametric memory costs: parameters and operations, counted as in `.cost`."""

from rtdlm.config import AGIConfig


def knowledge_products(config: AGIConfig) -> int:
    """Parameters that multiply a token's features, but for the rows that it looks up."""
    knowledge, d = config.knowledge, config.d_model
    width = knowledge.width(d)
    if knowledge.kind == "ngram":
        return 2 * knowledge.num_tables * width * d
    return knowledge.num_heads * knowledge.query_dim * (d + knowledge.table_rows) + 2 * d * width


def knowledge_vectors(config: AGIConfig) -> int:
    """Parameters of its own norms."""
    knowledge = config.knowledge
    return 2 * config.d_model if knowledge.kind == "ngram" else knowledge.query_dim // 2


def knowledge_reads(config: AGIConfig) -> int:
    """Products of the sum of what it found."""
    knowledge = config.knowledge
    if knowledge.kind == "ngram":
        return 0
    return knowledge.num_heads * knowledge.choices * knowledge.width(config.d_model)


def knowledge_rows(config: AGIConfig) -> tuple[int, int]:
    """Parameters of its tables: all, and those that one token reads."""
    knowledge = config.knowledge
    if knowledge.kind == "ngram":
        rows, read = knowledge.num_tables * knowledge.table_rows, knowledge.num_tables
    else:
        rows, read = knowledge.num_values, knowledge.num_heads * knowledge.choices
    width = knowledge.width(config.d_model)
    return rows * width, read * width
