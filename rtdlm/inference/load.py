"""A `Generator` out of a checkpoint, a Hugging Face folder or weights in few bits."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rtdlm.checkpoint.reading import Notice
from rtdlm.config.controller import Strategy
from rtdlm.config.errors import UserError
from rtdlm.data import Tokenizer
from rtdlm.inference.draft import DRAFT_TOKENS, Draft, DraftModel, EarlyExit
from rtdlm.inference.generate import Generator
from rtdlm.interop.load import load_any_model
from rtdlm.models import TMSModel
from rtdlm.models.tms import Params, with_strategy
from rtdlm.parallel import keep_compiled_programs


@dataclass(frozen=True)
class Drafting:
    """What a user asks of speculative decoding; see `rtdlm.inference.speculate`."""

    checkpoint: str | Path | None = None
    """Path of the draft model; see `load_generator`."""
    layers: int | None = None
    """Or the model's own first layers [layers]."""
    tokens: int | None = None
    """Proposed a round; None is 4 [tokens]."""

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.layers is not None:
            raise UserError(
                f"draft={self.checkpoint} and draft layers={self.layers} are two drafts; give one"
            )
        if self.tokens is not None and self.checkpoint is None and self.layers is None:
            raise UserError(
                f"draft tokens={self.tokens} has no effect without a draft; name a draft model or "
                "a number of draft layers"
            )


NO_DRAFT = Drafting()


def load_generator(
    path: str | Path,
    *,
    drafting: Drafting = NO_DRAFT,
    strategy: Strategy | None = None,
    notice: Notice = warnings.warn,
) -> Generator:
    """The generator of the checkpoint that `path` means: a run, its checkpoints or one of them.

    A folder with a config.json is read as Hugging Face's, see `rtdlm.interop`; one that
    `scripts/quantize_model.py` wrote has its weights expanded. `strategy` is how much a compute
    controller may take; None is the checkpoint's own.

    Raises:
        UserError: there is no complete checkpoint, its arrays do not fit its configuration, it
            brings no tokenizer, or the draft does not fit it.
    """
    trouble = keep_compiled_programs()
    if trouble is not None:
        notice(trouble)
    found = _read(Path(path), notice)
    if strategy is not None:
        found = found._replace(model=with_strategy(found.model, strategy))
    tokens = DRAFT_TOKENS if drafting.tokens is None else drafting.tokens
    draft: Draft | None = None
    if drafting.checkpoint is not None:
        small = _read(Path(drafting.checkpoint), notice)
        draft = DraftModel(small.model, small.params, small.tokenizer, tokens)
    elif drafting.layers is not None:
        draft = EarlyExit(drafting.layers, tokens)
    return Generator(found.model, found.params, found.tokenizer, draft=draft)


class _Found(NamedTuple):
    model: TMSModel
    params: Params
    tokenizer: Tokenizer


def _read(path: Path, notice: Notice) -> _Found:
    model, params, tokenizer, _, directory, _ = load_any_model(path, notice=notice)
    if tokenizer is None:
        raise UserError(
            f"checkpoint {directory} brings no tokenizer, so it can neither read nor write "
            "text; train on shards with a tokenizer.json beside them"
        )
    return _Found(model, params, tokenizer)
