"""One run: everything is opened and checked, then the loop runs, then the end is told."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from rtdlm.checkpoint import CheckpointStore, Group
from rtdlm.config import AGIConfig, UserError
from rtdlm.config.errors import Unfinished
from rtdlm.config.sampling import SamplingConfig
from rtdlm.data import Warmup
from rtdlm.evaluation import TrainingEvaluator, pricing_of
from rtdlm.inference import Generator
from rtdlm.models import TMSModel
from rtdlm.models.cost import count_parameters, train_flops_per_token
from rtdlm.monitoring import (
    CurvesSink,
    EvalFinished,
    EventStream,
    JsonlSink,
    Meter,
    Notice,
    PrepareBar,
    ReportSink,
    RunFinished,
    RunStarted,
    Sink,
    TensorBoardSink,
    peak_flops,
    progress_sink,
)
from rtdlm.parallel import (
    Peers,
    ScalableMesh,
    Watchdog,
    keep_compiled_programs,
    put,
    slice_of,
)
from rtdlm.training.allocator import keep_freed_memory
from rtdlm.training.budget import Budget
from rtdlm.training.corpus import Corpus
from rtdlm.training.knobs import Knobs
from rtdlm.training.loop import Loop, Parts
from rtdlm.training.memory_use import check_memory
from rtdlm.training.optimizer import check_rules, evaluation_params, make_optimizer
from rtdlm.training.saving import Position, from_snapshot
from rtdlm.training.source import Origin, Source, told
from rtdlm.training.state import TrainState, init_state, state_of, state_shapes
from rtdlm.training.step import make_train_step
from rtdlm.training.stop import StopRequest
from rtdlm.training.together import open_together, place_batch, together


class Start(NamedTuple):
    """Where a session begins: fresh, or at a checkpoint."""

    state: TrainState
    knobs: Knobs
    position: Position
    passed_over: Mapping[int, str]
    """Damaged checkpoints newer than the one that was loaded, and why."""
    resumed: bool
    origin: Origin | None
    """Of the model that the run started from; None for one that started from random numbers."""


def train(
    config: AGIConfig, out: Path, *, resume: bool, command: str, source: Source | None = None
) -> None:
    """Trains the model that `config` describes and leaves everything in `out`.

    Args:
        config: the run; its text is prepared first.
        out: output directory; one run each.
        resume: go on from the newest complete checkpoint in `out`, if there is one.
        command: how the run was started, for the record.
        source: the model that a new run starts from, as `find_source` gives it; `config` is then
            that model's. None starts from random numbers.

    Raises:
        UserError: config, data, devices and `out` do not fit together.
        StorageError: something could not be written; earlier checkpoints are intact.
        Unfinished: a signal ended the run early; it saved and can be resumed.
    """
    trouble = keep_compiled_programs()
    keep_freed_memory()
    # Left after the processes have parted: a signal that came to all may reach one that late.
    with ExitStack() as to_the_end, together(config.hosts) as peers:
        _train(
            config,
            out,
            resume=resume,
            command=command,
            source=source,
            trouble=trouble,
            peers=peers,
            to_the_end=to_the_end,
        )


def _train(
    config: AGIConfig,
    out: Path,
    *,
    resume: bool,
    command: str,
    source: Source | None,
    trouble: str | None,
    peers: Peers,
    to_the_end: ExitStack,
) -> None:
    if not resume:  # else it is seen later whether there is anything to resume
        check_memory(config, inherits=source is not None)
    config, reasons = _with_mesh(config)
    scalable = ScalableMesh(config)
    mesh = scalable.mesh
    # Before anything is written: what is damaged leaves no trace.
    given = None
    if source is not None and source.origin is None:
        given = source.read(TMSModel(config), peers)
    with PrepareBar() if peers.leads else nullcontext() as bar:
        corpus = open_together(config, out, peers, source=source, progress=bar)
    model = TMSModel(corpus.config)
    corpus = corpus._replace(config=model.config)
    config, optimizer = corpus.config, make_optimizer(corpus.config.optimizer)
    check_rules(config.optimizer, state_shapes(model, optimizer).params)
    budget = Budget.from_config(config, tokens_per_epoch=corpus.loader.tokens_per_epoch)
    sinks = _sinks(config, out) if peers.leads else []
    with (
        # Not sooner: text takes as long to prepare as it takes.
        Watchdog(config.hosts.step_limit(peers.count)) as watchdog,
        open_store(config, out, group=peers) as store,
        EventStream(sinks) as events,
    ):
        start = _start(
            model, optimizer, mesh, store, corpus.loader.fingerprint, given, resume=resume
        )
        watchdog.feed()
        del given  # of a foreign folder it is all of the model, on the host
        assert source is None or start.origin is not None
        budget.require_left(step=start.position.step, seconds=start.position.seconds)
        started = _started(config, mesh, budget, start, command)
        events.emit(started)
        if trouble is not None:
            events.emit(Notice(start.position.step, "warning", trouble))
        for reason in reasons:
            events.emit(Notice(start.position.step, "info", reason))
        for step, damage in start.passed_over.items():
            events.emit(Notice(step, "warning", damage))
        parts = _parts(
            corpus, model, optimizer, scalable, out, store, budget, events, start, started, peers
        )
        with _enough_memory():
            if start.origin is not None and not start.resumed:
                _evaluate_before(parts, start)
                watchdog.feed()
            loop = Loop(parts, start.state, start.knobs, start.position)
            stop = to_the_end.enter_context(StopRequest())
            end = loop.run(stop=stop, watchdog=watchdog)
        sample = _sample(corpus, model, loop) if end.complete else None
        watchdog.feed()
        reason = end.reason if end.complete else f"{end.reason}; go on with --resume"
        summary = {"wall_seconds": loop.seconds, "skipped_updates": float(loop.state.skipped)}
        events.emit(RunFinished(loop.position.step, reason, summary, sample))
    if not end.complete:
        raise Unfinished(reason)


def _evaluate_before(parts: Parts, start: Start) -> None:
    """Tells the held-out loss of what a run starts from, which its own are to be held against."""
    held_out = parts.evaluator.evaluate(start.state.params)
    report = parts.evaluator.report(held_out, step=start.position.step)["held_out"]
    values = {name: float(value) for name, value in report.items() if value is not None}
    parts.emit(EvalFinished(start.position.step, values, is_best=False))


def _with_mesh(config: AGIConfig) -> tuple[AGIConfig, tuple[str, ...]]:
    """`config` with `mesh.strategy=auto` decided, and why."""
    if config.mesh_strategy != "auto":
        return config, ()
    # It traces the model for every candidate; nobody else should load it.
    from rtdlm.training.planning import decide_mesh

    return decide_mesh(config, slice_of(jax.devices()))


@contextmanager
def _enough_memory() -> Iterator[None]:
    """Turns the devices' "out of memory" into advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        wanted = re.search(r"allocat\w* (\d+) bytes", str(error))
        size = f" ({int(wanted[1]) / 1e9:.1f} GB in one piece)" if wanted else ""
        raise UserError(
            f"the devices' memory does not hold the step{size}; lower batch_size or max_seq_len, "
            "raise accumulate_steps, or set remat=full"
        ) from None


def _parts(
    corpus: Corpus,
    model: TMSModel,
    optimizer: optax.GradientTransformationExtraArgs,
    scalable: ScalableMesh,
    out: Path,
    store: CheckpointStore,
    budget: Budget,
    events: EventStream,
    start: Start,
    started: RunStarted,
    peers: Peers,
) -> Parts:
    config, mesh = corpus.config, scalable.mesh
    evaluator = TrainingEvaluator(
        model,
        corpus.loader.held_out_batches(config.evaluation.num_batches),
        mesh=mesh,
        bytes_per_token=corpus.bytes_per_held_out_token,
    )
    meter = Meter(
        flops_per_token=started.flops_per_token,
        peak_flops=started.peak_flops,
        seconds=start.position.trained_seconds,
        tokens=Warmup(config).tokens_before(start.position.step),
    )
    return Parts(
        config=config,
        step=make_train_step(model, optimizer, mesh),
        loader=corpus.loader,
        place=partial(place_batch, corpus.loader, Warmup(config), scalable.rows),
        place_knobs=lambda knobs: put(knobs, scalable.whole),
        evaluator=evaluator,
        pricing=pricing_of(model, mesh=mesh),
        store=store,
        budget=budget,
        peers=peers,
        emit=events.emit,
        meter=meter,
        tokenizer=corpus.tokenizer_file,
        origin=start.origin,
        out=out,
    )


def _sinks(config: AGIConfig, out: Path) -> list[Sink]:
    """Files first, so that what the terminal shows is on the disk already."""
    metrics = out / "metrics.jsonl"
    sinks: list[Sink] = [JsonlSink(metrics, every=config.monitoring.log_every)]
    if config.monitoring.tensorboard:
        sinks.append(TensorBoardSink(out / "tensorboard"))
    sinks.append(CurvesSink(metrics, out / "curves.png"))
    sinks.append(ReportSink(metrics, out / "report.md", out=str(out)))
    return [*sinks, progress_sink()]


def open_store(config: AGIConfig, out: Path, *, group: Group | None = None) -> CheckpointStore:
    """The checkpoints of the run in `out`, locked against other writers than its `group`."""
    options = config.checkpoint
    return CheckpointStore(
        out,
        keep_last=options.keep_last,
        keep_every=options.keep_every,
        part_bytes=options.part_bytes,
        group=group,
    )


def _start(
    model: TMSModel,
    optimizer: optax.GradientTransformationExtraArgs,
    mesh: Mesh,
    store: CheckpointStore,
    fingerprint: str,
    given: tuple[Any, Origin] | None,
    *,
    resume: bool,
) -> Start:
    found = store.newest_complete()
    if not resume and (found.snapshot is not None or found.passed_over):
        which = "damaged" if found.snapshot is None else f"at step {found.snapshot.step}"
        raise UserError(
            f"{store.root} already holds a run ({which}); add --resume to go on with it, or choose "
            "another --out"
        )
    if found.snapshot is None:
        if found.passed_over:
            raise UserError(
                f"no checkpoint in {store.root} is undamaged: "
                f"{'; '.join(found.passed_over.values())}; start anew in another --out"
            )
        check_memory(model.config, inherits=given is not None)
        if given is None:
            state, origin = init_state(model, optimizer, mesh), None
        else:
            state, origin = state_of(given[0], model, optimizer, mesh), given[1]
        position = Position(0, 0.0, 0.0, None, None, 0)
        return Start(
            state, Knobs.from_config(model.config), position, {}, resumed=False, origin=origin
        )
    saved = found.snapshot
    _require_same_data(saved.state["data"]["fingerprint"], fingerprint, saved.step)
    shapes = state_shapes(model, optimizer)
    restored = from_snapshot(saved, shapes, model.config, mesh)
    origin = saved.state.get("origin")
    return Start(*restored, found.passed_over, resumed=True, origin=origin)


def _require_same_data(saved: str, ours: str, step: int) -> None:
    if saved != ours:
        raise UserError(
            f"the checkpoint at step {step} was trained on other shards than those named now; "
            "resume with the same data, or start a new run in another --out"
        )


def _started(
    config: AGIConfig, mesh: Mesh, budget: Budget, start: Start, command: str
) -> RunStarted:
    count, peak = (
        count_parameters(config),
        peak_flops(list(mesh.devices.flat), compute=config.precision.compute),
    )
    return RunStarted(
        time=time.time(),
        command=command,
        config=summary(config),
        parameters={"total": count.total, "active a token": count.active},
        devices=f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
        + (f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""),
        tokens_per_step=config.batch_size * config.max_seq_len,
        flops_per_token=train_flops_per_token(config),
        peak_flops=peak.flops,
        peak_source=peak.source,
        total_steps=budget.num_steps,
        max_seconds=budget.max_seconds,
        resumed_from=start.position.step if start.resumed else None,
        started_from=None if start.origin is None else told(start.origin),
    )


def summary(config: AGIConfig) -> dict[str, Any]:
    """The settings that a reader of the report asks for first."""
    optimizer, warmup, experts = config.optimizer, config.warmup, config.experts
    shape = f"{config.batch_size} rows of {config.max_seq_len}"
    if warmup.batch_size is not None:
        shape += f", from {warmup.batch_size} rows up over {warmup.batch_steps} steps"
    if warmup.seq_len is not None:
        shape += f", cut to {warmup.seq_len} tokens at first, whole after {warmup.seq_len_steps}"
    feedforward = f"{config.feedforward}, {config.d_ff} wide"
    if experts.num_experts:
        feedforward += f", {experts.choices} of {experts.num_experts} experts a token"
        feedforward += f" and {experts.shared} shared" if experts.shared else ""
    return {
        "model": f"{config.num_layers} layers, {config.d_model} wide, {config.num_heads} heads, "
        f"{config.kv_heads} key-value heads ({config.attention_type})",
        "feedforward": feedforward,
        "vocabulary": config.vocab_size,
        "batch": shape,
        "optimizer": f"{optimizer.name}, peak learning rate {optimizer.peak}, "
        f"{optimizer.schedule} schedule",
        "precision": config.precision.compute,
        "data": ", ".join(config.data.text or config.data.shards),
        "seed": config.seed,
    }


def _sample(corpus: Corpus, model: TMSModel, loop: Loop) -> str | None:
    length = model.config.monitoring.sample_tokens
    # Parameters on several hosts are not put together for a sample.
    if not length or corpus.tokenizer is None or jax.process_count() > 1:
        return None
    state = loop.state
    params = evaluation_params(model.config.optimizer, state.optimizer, state.params)
    sampling = SamplingConfig.from_preset("balanced", max_tokens=length, seed=model.config.seed)
    [completion] = Generator(model, params, corpus.tokenizer).generate([""], sampling)
    return completion.text
