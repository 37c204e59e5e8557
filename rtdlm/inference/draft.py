"""Where drafts for speculative decoding come from.

DraftModel   another, smaller model with the same tokenizer (arXiv 2211.17192)
EarlyExit    the model's own first layers, its final norm and its output table (arXiv 2404.16710)
"""

from dataclasses import dataclass

import jax

from rtdlm.config.errors import UserError
from rtdlm.data import Tokenizer
from rtdlm.inference.layout import LayerParams, decoding_model, split_params
from rtdlm.models import TMSModel
from rtdlm.models.layers import layer_plans, layers_of
from rtdlm.models.tms import Params

DRAFT_TOKENS = 4
"""Tokens a round unless told."""


@dataclass(frozen=True)
class DraftModel:
    """Another model as the draft."""

    model: TMSModel
    params: Params
    tokenizer: Tokenizer
    tokens: int = DRAFT_TOKENS
    """Proposed a round."""


@dataclass(frozen=True)
class EarlyExit:
    """The first `layers` layers as the draft; their weights are the model's own, not copies."""

    layers: int
    tokens: int = DRAFT_TOKENS
    """Proposed a round."""


Draft = DraftModel | EarlyExit


def draft_of(
    draft: Draft, model: TMSModel, params: LayerParams, tokenizer: Tokenizer
) -> tuple[TMSModel, LayerParams]:
    """The draft's model and parameters as decoding wants them.

    Args:
        draft: what was asked for.
        model: the one that it drafts for, as `decoding_model` gives it.
        params: the model's, layers apart.
        tokenizer: the model's.

    Raises:
        UserError: it cannot draft for this model.
    """
    if draft.tokens < 1:
        raise UserError(
            f"a draft of {draft.tokens} tokens a round proposes none; ask for 1 or more"
        )
    if isinstance(draft, EarlyExit):
        return _early_exit(model, params, draft.layers)
    if draft.tokenizer.hash != tokenizer.hash:
        raise UserError(
            f"the draft's tokenizer ({draft.tokenizer.vocab_size} tokens) is another than the "
            f"model's ({tokenizer.vocab_size} tokens); use a draft that was trained with the same"
        )
    own, longest = draft.model.config, model.config.max_seq_len
    if own.position_encoding == "learned" and own.max_seq_len < longest:
        raise UserError(
            f"the draft has learned positions up to max_seq_len={own.max_seq_len} and the model "
            f"reads {longest} tokens; use a draft that reads as many"
        )
    small = decoding_model(draft.model)
    return small, jax.jit(lambda x: split_params(x, dtype=small.dtype))(draft.params)


def _early_exit(model: TMSModel, params: LayerParams, layers: int) -> tuple[TMSModel, LayerParams]:
    whole = model.config
    if not 1 <= layers < whole.num_layers:
        raise UserError(
            f"a draft of {layers} layers is not a part of the model's {whole.num_layers}; ask for "
            f"1 to {whole.num_layers - 1}"
        )
    if whole.depths.capacity is not None:
        raise UserError(
            "layers that choose their tokens (depths.capacity) cannot be a draft of their own "
            "model; use a draft model"
        )
    if whole.use_compute_controller:
        raise UserError(
            "first layers of a model with a compute controller cannot be its draft: its core comes "
            "last; use a draft model"
        )
    other = UserError(
        f"a model of {layers} layers would not have the kinds of layers that the model's first "
        f"{layers} are; use another number of layers or a draft model"
    )
    try:
        short = whole.replace(num_layers=layers, layer_unroll=layers)
    except UserError:  # a kind of layers of which the first ones have none
        raise other from None
    if layer_plans(short) != layer_plans(whole)[:layers]:
        raise other
    pairs = zip(layers_of(short), layers_of(whole), strict=False)
    found = {name: leaves for name, leaves in params.items() if "/layers" not in name}
    parts: dict[str, dict[str, list[jax.Array]]] = {}
    for own, theirs in pairs:
        for name, leaves in params.items():
            if name == theirs.module or name.startswith(f"{theirs.module}/"):
                part = parts.setdefault(own.module + name.removeprefix(theirs.module), {})
                for leaf, arrays in leaves.items():
                    part.setdefault(leaf, []).append(arrays[theirs.turn])
    found |= {
        name: {leaf: tuple(arrays) for leaf, arrays in leaves.items()}
        for name, leaves in parts.items()
    }
    return TMSModel(short), found
