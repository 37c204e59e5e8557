"""What a run that starts from a trained model takes over from it, and what it may choose anew.

A field is the model's unless it stands here: a new one is, until somebody says otherwise. The rule
is that the same parameters must compute the same on the same tokens.
"""

from pathlib import Path
from typing import Any

from rtdlm.config.agi import AGIConfig
from rtdlm.config.build import build_config, differences, read_yaml
from rtdlm.config.errors import UserError

RUN = (
    *("dropout_rate", "remat", "layer_unroll", "distributed_training", "tensor_parallel", "seed"),
    *("batch_size", "accumulate_steps", "num_steps", "num_epochs", "num_tokens", "max_seconds"),
    *("data", "loss", "warmup", "optimizer", "precision", "mesh", "hosts", "checkpoint"),
    *("evaluation", "monitoring"),
)
"""Fields and sections that say how a model is trained: these start from their defaults."""
FREE = (
    *("max_seq_len", "experts.balance_weight", "experts.z_weight", "experts.jitter"),
    *("experts.dropout", "depths.predictor_weight", "memory.backprop_segments"),
    "memory.across_steps",
    *("controller.lowest_price", "controller.highest_price", "controller.even_share"),
    *("controller.ponder_weight", "graph.hop_price"),
)
"""Fields that are taken over and may be changed: they act in training alone, or on rows' length."""


def model_part(config: AGIConfig, *, tokenizer: Path | str) -> AGIConfig:
    """The model of `config` and the defaults of everything else.

    `tokenizer` is where the model's own lies; no other is for the run to choose.
    """
    fields = {name: value for name, value in config.to_dict().items() if name not in RUN}
    return AGIConfig.from_dict(fields | {"data": {"tokenizer": str(tokenizer)}})


def inherit(
    model: AGIConfig, *, folder: Path, file: str | None, overrides: dict[str, Any]
) -> AGIConfig:
    """`model`, as `model_part` gives it, with a YAML file and then overrides on top.

    Raises:
        UserError: these name a preset or contradict the model in `folder`; or as `build_config`.
    """
    if file is not None and "preset" in read_yaml(file):
        raise preset_refused(f"config file {file} names a preset", folder)
    config = build_config(base=model, file=file, overrides=overrides)
    differing = [
        f"{name}={theirs!r}, not {ours!r}"
        for name, (ours, theirs) in differences(config, model).items()
        if name == "data.tokenizer" or not _is_free(name, model)
    ]
    if differing:
        raise UserError(
            f"the model that --from {folder} names has {', '.join(differing)}; leave that out, or "
            "train a new model without --from"
        )
    return config


def preset_refused(what: str, folder: Path) -> UserError:
    """A preset is a size of model, and the model is there."""
    return UserError(
        f"{what}, which is a model's size, and --from {folder} brings a model; leave out one of "
        "them"
    )


def _is_free(name: str, model: AGIConfig) -> bool:
    """Whether a run may have another value than the model that it starts from."""
    if name == "max_seq_len" and model.position_encoding == "learned":
        return False  # a parameter has a row for each position
    return name in FREE or name.split(".")[0] in RUN
