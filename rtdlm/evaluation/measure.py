"""A checkpoint on held-out text: the whole of what `python -m rtdlm.evaluate` reports."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rtdlm.checkpoint.reading import Notice
from rtdlm.config import MeshConfig, UserError
from rtdlm.config.controller import Strategy
from rtdlm.data import Batch, Loader
from rtdlm.evaluation.evaluator import TrainingEvaluator
from rtdlm.evaluation.gradients import gradient_health, layer_norms
from rtdlm.evaluation.sums import divisor, token_sums
from rtdlm.interop.load import load_any_model
from rtdlm.interop.quantize import Kind, rounded_params
from rtdlm.models import TMSModel
from rtdlm.models.load import LoadedModel
from rtdlm.models.tms import with_strategy
from rtdlm.parallel import keep_compiled_programs, make_mesh


def measure(
    checkpoint: Path,
    *,
    data: Sequence[str] | None = None,
    num_batches: int = 0,
    quantize: Kind | None = None,
    strategy: Strategy | None = None,
    notice: Notice = warnings.warn,
) -> dict[str, Any]:
    """Held-out figures and gradient health of a checkpoint, as plain JSON values.

    Args:
        checkpoint: what `load_any_model` reads.
        data: shards to evaluate on; None takes the run's own.
        num_batches: held-out batches, spread evenly; 0 is all.
        quantize: measure what is left after weights are rounded to few bits.
        strategy: how much a compute controller may take; None is the checkpoint's own.
        notice: told of what is wrong but stops nothing, one sentence each: damaged checkpoints that
            were passed over, no place for compiled programs.

    Raises:
        UserError: checkpoint or data are missing, damaged or do not fit.
    """
    trouble = keep_compiled_programs()
    if trouble is not None:
        notice(trouble)
    loaded = load_any_model(checkpoint, notice=notice)
    if strategy is not None:
        model = with_strategy(loaded.model, strategy)
        loaded = loaded._replace(model=model)
    if quantize is not None:
        rounded = rounded_params(loaded.params, quantize)
        loaded = loaded._replace(params=jax.device_put(rounded))
    loader = _held_out(loaded, data)
    batches = list(loader.held_out_batches(num_batches))
    # One device, where the parameters are: a run on many is measured on a laptop too.
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    evaluator = TrainingEvaluator(
        loaded.model, batches, mesh=mesh, bytes_per_token=loader.bytes_per_token
    )
    evaluator.compile(loaded.params)
    started = time.monotonic()
    held_out = evaluator.evaluate(loaded.params)
    seconds = time.monotonic() - started
    report = evaluator.report(
        held_out,
        step=loaded.step,
        health=gradient_health(gradient_norms(_whole(loaded.model), loaded.params, batches[0])),
        tokens_per_second=held_out.tokens / seconds,
    )
    return {"checkpoint": str(loaded.directory)} | report


def gradient_norms(model: TMSModel, params: Any, batch: Batch) -> dict[str, np.ndarray]:
    """Norm of the gradient of `batch`'s mean loss, by parameter and layer.

    A compute controller's policy is left out: a decision that was taken has no gradient.
    """

    @jax.jit
    def norms(params: Any, batch: Batch) -> dict[str, jax.Array]:
        def loss(params: Any) -> jax.Array:
            sums = token_sums(model.batch_scores(params, batch).tokens, batch.weights)
            return sums.nll / divisor(sums.weight)

        return layer_norms(jax.grad(loss)(params))

    found = norms(params, batch)
    return {
        path: np.asarray(norm) for path, norm in found.items() if "/core/controller" not in path
    }


def _whole(model: TMSModel) -> TMSModel:
    """`model`, taking every step that it may: of all steps the gradient is a plain one."""
    return with_strategy(model, "thorough") if model.config.use_compute_controller else model


def _held_out(loaded: LoadedModel, data: Sequence[str] | None) -> Loader:
    config = loaded.model.config
    directories = data or config.data.shards
    if not directories:
        if loaded.run is None:
            raise UserError(
                f"{loaded.directory} is of no run that has text of its own; name shards to "
                "evaluate on with --data-dir"
            )
        prepared = loaded.run / "data"
        if not prepared.is_dir():
            raise UserError(
                f"the run's prepared text is not at {prepared}; name shards to evaluate on with "
                "--data-dir"
            )
        directories = (str(prepared),)
    loader = Loader(
        directories,
        seq_len=config.max_seq_len,
        batch_size=config.batch_size,
        seed=config.seed,
        split="heldout",
        vocab_size=config.vocab_size,
        held_out_fraction=config.data.held_out_fraction,
    )
    ours, theirs = loaded.tokenizer, loader.tokenizer()
    if ours is not None and theirs is not None and ours.hash != theirs.hash:
        raise UserError(
            f"{directories[0]} was prepared with another tokenizer than the checkpoint's; prepare "
            f"the text again with --tokenizer {loaded.directory}/tokenizer.json"
        )
    return loader


def render(report: dict[str, Any]) -> str:
    """The report of `measure` as lines for a person."""
    # `float` reads what JSON has no sign for.
    held_out = {k: float(v) for k, v in report["held_out"].items() if v is not None}
    gradients, bits = report["gradients"], held_out.get("bits_per_byte")
    loss, tokens = held_out["loss"], held_out["tokens"]
    calls = [
        f"{value:.3f} of {name.removeprefix('calls_')}"
        for name, value in held_out.items()
        if name.startswith("calls_")
    ]
    troubled = {
        kind.replace("_", " "): gradients[kind]
        for kind in ("not_finite", "exploding", "vanishing")
        if gradients[kind]
    }
    rows = {
        "checkpoint": report["checkpoint"],
        "step": f"{report['step']:,}",
        "held-out loss": f"{loss:.4f} nats a token over {tokens:,.0f} tokens",
        "perplexity": f"{held_out['perplexity']:.2f}",
        "bits per byte": "not known" if bits is None else f"{bits:.4f}",
        "top-1 accuracy": f"{held_out['top1']:.2%}",
        "top-5 accuracy": f"{held_out['top5']:.2%}",
        "gradients": "healthy"
        if not troubled
        else "; ".join(f"{kind}: {', '.join(names)}" for kind, names in troubled.items()),
        "core steps": None if held_out.get("steps") is None else f"{held_out['steps']:.3f} a token",
        "calls": f"{', '.join(calls)} a token" if calls else None,
        "speed": f"{report['tokens_per_second']:,.0f} tokens/s",
    }
    told = {name: value for name, value in rows.items() if value is not None}
    return "\n".join(f"{name + ':':17}{value}" for name, value in told.items())
