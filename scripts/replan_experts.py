"""Splits or removes one expert of every layer in a checkpoint, between two sessions of a run.

    python scripts/replan_experts.py --checkpoint runs/moe --split 3 0 --out runs/moe-9
    python scripts/replan_experts.py --checkpoint runs/moe --prune 1 7 --out runs/moe-7

One number for each layer that has experts. The model's function stays as it is (see
`rtdlm.training.replan`, which also says for which routers that can be), moments of the optimizer
come along, and so does the run's prepared text. The command ends by saying how to go on.
"""

import sys
from collections.abc import Sequence
from shutil import copytree
from typing import Any

from rtdlm.config.command_line import add_checkpoint_flag, leave, make_parser, path, run, tell

DESCRIPTION = __doc__ or ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the arguments and replans; returns the exit status."""
    return run(_main, sys.argv[1:] if arguments is None else arguments)


def _main(arguments: Sequence[str]) -> None:
    parser = make_parser("replan", DESCRIPTION)
    add_checkpoint_flag(parser, foreign=False)
    parser.add_argument("--out", type=path, required=True, metavar="DIR", help="the new run")
    ways = parser.add_mutually_exclusive_group(required=True)
    for way, text in (("split", "experts to split in two"), ("prune", "experts to remove")):
        ways.add_argument(f"--{way}", type=int, nargs="+", metavar="E", help=text)
    flags = parser.parse_args(arguments)
    from dataclasses import replace

    import yaml

    from rtdlm.checkpoint import CheckpointStore, load_checkpoint, resolve_checkpoint
    from rtdlm.config import AGIConfig, UserError, to_yaml
    from rtdlm.disk import writing
    from rtdlm.training.replan import add_expert, prune_expert

    if flags.out.exists():
        raise UserError(f"{flags.out} is there already; name a new folder")
    directory = resolve_checkpoint(flags.checkpoint, notice=tell)
    saved = load_checkpoint(directory)
    config = AGIConfig.from_dict(yaml.safe_load(saved.config))
    change, experts = (
        (prune_expert, flags.prune) if flags.split is None else (add_expert, flags.split)
    )
    before = config.experts.bias_rate
    config, params, optimizer = change(config, saved.params, saved.optimizer, experts=experts)
    whole = replace(
        saved,
        params=params,
        optimizer=optimizer,
        config=to_yaml(config),
        state=_with_rate(saved.state, before, config.experts.bias_rate),
    )
    form = config.checkpoint
    with CheckpointStore(
        flags.out, keep_last=form.keep_last, keep_every=form.keep_every, part_bytes=form.part_bytes
    ) as store:
        store.save(whole)
    data = directory.parent.parent / "data"
    if data.is_dir():
        with writing(flags.out / "data"):
            copytree(data, flags.out / "data")
    settings = [
        f"experts.{name}={getattr(config.experts, name)}"
        for name in ("num_experts", "capacity_factor", "bias_rate", "balance_weight")
        if getattr(config.experts, name) is not None
    ]
    last = config.experts.scores == "softmax" and config.experts.bias_rate is not None
    print(
        f"{flags.out}: step {saved.step} with {config.experts.num_experts} experts a layer; train "
        f"it with --out {flags.out} --resume --set {' '.join(settings)} "
        "beside its other options" + ("; it cannot be split or pruned again" if last else "")
    )


def _with_rate(state: dict[str, Any], before: float | None, rate: float | None) -> dict[str, Any]:
    """The run's own numbers, of which knobs go before the config."""
    if rate is None or before is not None:
        return state
    return {**state, "knobs": {**state["knobs"], "bias_rate": rate}}


if __name__ == "__main__":
    leave(main())
