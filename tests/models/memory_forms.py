"""Configurations of memory that tests share: every tier alone, and together in every way."""

from typing import Any

from tests.models.small import GRAPH, OVERLAP, RICH, ROOMY

ALL: dict[str, Any] = {
    "segment": 4, "stm_window": 6, "recurrent": "gated_delta", "episodic_slots": 8,
    "episodic_top_k": 3, "task_tokens": 2, "task_slots": 3,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "segments alone": {"memory": {"segment": 4}},
    "short-term": {"memory": {"segment": 4, "stm_window": 6, "short_conv": 0}},
    "recurrent": {"memory": {"segment": 4, "recurrent": "gated_delta", "short_conv": 0}},
    "episodic, the newest": {"memory": {"segment": 4, "episodic_slots": 4, "short_conv": 0}},
    "summaries": {
        "memory": {"segment": 4, "summary_slots": 3, "summary_chunk": 2, "short_conv": 0},
    },
    "meta-task": {"memory": {"segment": 4, "task_tokens": 2, "short_conv": 0}},
    "short-term, a graph and a quantum circuit": {
        **OVERLAP, "memory": {"segment": 4, "stm_window": 6}, "experts": ROOMY,
        "graph": {**GRAPH["graph"], "route_experts": True},
    },
    "all, rich": {**RICH, "memory": ALL, "zero_init_outputs": True},
    "all, weighed against each other": {
        "memory": {
            **ALL, "recurrent": "channel_decay", "fusion": "cross", "consolidate": 2,
            "forget": "use", "heads": 2, "summary_slots": 3, "summary_chunk": 2,
            "episodic_recency": True,
        },
        "experts": ROOMY, "attention_type": "sliding", "attention": {"window": 3},
    },
    "all, one after another, in every second layer": {
        "memory": {
            **ALL, "recurrent": "erase_write", "fusion": "hierarchical", "every": 2,
            "episodic_write": "novel", "episodic_rows": 2, "forget": "adaptive",
            "ltm_weight": 0.3, "backprop_segments": 2,
        },
        "num_layers": 2, "layer_unroll": 1,
        "position_encoding": "learned", "remat": "full",
    },
    "all, with attention's own window": {
        **RICH,
        "memory": {
            "segment": 4, "stm_window": 6, "stm_form": "attention", "recurrent": "gated_delta",
            "every": 2,
        },
        "num_layers": 2, "remat": "full",
    },
    "all, by attention's heads and beside its window": {
        **RICH,
        "memory": {
            **ALL, "stm_form": "attention", "tier_form": "attention", "fusion": "mixed",
            "episodic_recency": True,
        },
    },
    "meta-task, in attention": {
        "memory": {"segment": 4, "task_tokens": 3, "task_form": "attention"},
    },
    "all, with task tokens in attention": {
        **RICH,
        "memory": {
            "segment": 4, "stm_window": 6, "recurrent": "gated_delta", "task_tokens": 2,
            "task_form": "attention",
        },
        "remat": "full",
    },
    "all, with task tokens beside attention's window": {
        **RICH, "position_encoding": "alibi",
        "memory": {
            "segment": 4, "stm_window": 6, "stm_form": "attention", "task_tokens": 2,
            "task_form": "attention",
        },
    },
}  # fmt: skip
"""Every tier alone, without convolutions, which reach beyond a segment too; and together in every
form of fusion."""
