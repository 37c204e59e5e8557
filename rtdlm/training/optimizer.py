"""Optimizers by name, from optax's parts, with groups decided by parameter path.

Every optimizer is a direction u (optax), then one rule:

    p <- p - factor(t) * scale * rate[path] * (u + weight_decay * decay[path] * p)

`rate` and `decay` are static tables over paths; `factor` is the schedule; `scale` and
`weight_decay` are knobs. Groups come from paths and never from the number of dimensions, which
stacking layers changes. What a direction is:

    adamw          Adam's (arXiv 1412.6980), decay decoupled (arXiv 1711.05101)
    muon           sqrt(max(1, out / in)) NewtonSchulz(Nesterov momentum) for weight matrices
                   (see `rtdlm.training.muon`); embeddings, the output table, the router and norm
                   scales go to Adam
    adafactor      factored root mean square, clipped to a root mean square of one a parameter
                   and layer (arXiv 1804.04235), without its relative step size
    lion           sign of an interpolated momentum (arXiv 2302.06675)
    sgd            heavy-ball momentum
    schedule_free  Adam's without momentum, at an interpolation of iterate and average
                   (arXiv 2405.15682); evaluated at the average: see `evaluation_params`
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import schedule_free, schedule_free_eval_params

from rtdlm.config import OptimizerConfig, UserError
from rtdlm.parallel import own_axes, path_name
from rtdlm.training.balance import balanced, trained, with_biases
from rtdlm.training.knobs import Knobs
from rtdlm.training.muon import MatrixAxes, scale_by_muon
from rtdlm.training.schedule import learning_rate_factor

# Axes of a matrix that are summed over and that are produced, counted from the end, so that a
# leading layer (or expert) axis makes a batch of matrices.
MUON_MATRICES: dict[str, MatrixAxes] = {
    r"(attention|memory)/(query|key|value)/w": ((-3,), (-2, -1)),
    r"(attention|memory)/output/w": ((-3, -2), (-1,)),
    r"(feedforward|experts|shared)/(gate|up|down)/w": ((-2,), (-1,)),
    r"ngram/projection/w": ((-3, -2), (-1,)),
    r"knowledge/query/w": ((-4,), (-3, -2, -1)),
    r"knowledge/(gate|output)/w": ((-2,), (-1,)),
    r"knowledge/(key|value)/w": ((-3, -2), (-1,)),
    r"quantum/(input|output)/w": ((-2,), (-1,)),
    r"overlap/(query|key|value)/w": ((-3,), (-2, -1)),
    r"overlap/output/w": ((-3, -2), (-1,)),
    r"graph/(input|output|reasoner/neuron/(message|gate|candidate))/w": ((-2,), (-1,)),
    r"graph_block/(up|down)/w": ((-2,), (-1,)),
    r"graph_attention/(reader|read)/w": ((-3,), (-2, -1)),
    r"graph_attention/output/w": ((-3, -2), (-1,)),
}
UNDECAYED = (
    r"norm/(scale|bias)$",
    r"/b$",
    r"decoder/embedding$",
    r"decoder/(position|value_embedding)$",
    r"ngram/table$",
    r"knowledge/(keys|values|table)$",
    r"_mix/weights$",
    r"core/(copy_gate|controller)/steps$",
    r"attention/decay_(rate|shift)$",
    r"attention/threshold$",
    r"_conv/kernel$",
    r"memory/(episodic_|summary_|(summary_)?probe_)?(scale|slope|nothing)$",
    r"graph/edges/sharpness$",
    r"graph_attention/(direction|kind)$",
    r"(circuit|overlap)/angles$",
    r"memory/(decay_(rate|shifts?)|forget|put|bank|question|place|(summary_)?probe)$",
)


class Progress(NamedTuple):
    """Where the run stands: int32 step from 0 and float32 share of the budget spent."""

    step: jax.Array
    fraction: jax.Array


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """The optimizer of that name; `update` takes `knobs=` and `progress=` beside the usual."""
    rule = optax.chain(_decay(config), _rate(config))
    if config.name != "schedule_free":
        return balanced(_lenient(optax.chain(_direction(config), rule)))
    if config.schedule != "constant":
        raise UserError(
            f"optimizer.name='schedule_free' averages its iterates and needs no decay, got "
            f"optimizer.schedule={config.schedule!r}; set optimizer.schedule=constant"
        )
    beta1 = _or(config.beta1, 0.9)
    if beta1 == 0.0:
        raise UserError(
            "optimizer.beta1=0.0 leaves optimizer.name='schedule_free' no average to evaluate; "
            "choose a value above 0, usually 0.9"
        )
    base = optax.chain(_adam(config, beta1=0.0), rule)

    def weight(count: jax.Array) -> jax.Array:
        return learning_rate_factor(config, count - 1, jnp.float32(0))

    return balanced(_lenient(schedule_free(base, learning_rate=weight, b1=beta1)))


def evaluation_params(config: OptimizerConfig, state: Any, params: Any) -> Any:
    """The parameters to evaluate and to ship: those trained, or schedule-free's average."""
    if config.name == "schedule_free":
        return with_biases(schedule_free_eval_params(state, trained(params)), params)
    return params


def learning_rate(config: OptimizerConfig, progress: Progress, knobs: Knobs) -> jax.Array:
    """The main group's learning rate at this step (with Muon, the matrices')."""
    factor = learning_rate_factor(config, progress.step, progress.fraction)
    return config.peak * factor * knobs.learning_rate_scale


def _lenient(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """`optimizer` for callers that forbid implicit promotion: optax raises floats to counts."""
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.init(params)

    def update(updates: Any, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _direction(config: OptimizerConfig) -> optax.GradientTransformation:
    beta1 = _or(config.beta1, 0.9)
    if config.name == "lion":
        return optax.scale_by_lion(b1=beta1, b2=_or(config.beta2, 0.99))
    if config.name == "sgd":
        return optax.trace(decay=_or(config.momentum, 0.9))
    if config.name == "adafactor":
        return optax.chain(optax.scale_by_factored_rms(), _clip_rms())
    adam = _adam(config, beta1=beta1)
    if config.name == "adamw":
        return adam
    assert config.name == "muon"
    muon = scale_by_muon(
        _matrix_axes,
        momentum=_or(config.momentum, 0.95),
        steps=_or(config.newton_schulz_steps, 5),
    )

    def groups(params: Any) -> Any:
        return _by_path(params, lambda path: "muon" if muon_axes(path) else "adam")

    return optax.partition({"muon": muon, "adam": adam}, groups)


def _adam(config: OptimizerConfig, *, beta1: float) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=beta1, b2=_or(config.beta2, 0.95), eps=_or(config.epsilon, 1e-8))


def _clip_rms() -> optax.GradientTransformation:
    """Scales updates down to a root mean square of one; `optax.clip_by_block_rms` a layer."""

    def clipped(path: tuple[Any, ...], u: jax.Array) -> jax.Array:
        axes = own_axes(path_name(path), u.ndim)
        return u / jnp.maximum(1.0, jnp.sqrt(jnp.mean(jnp.square(u), axis=axes, keepdims=True)))

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(clipped, updates))


def muon_axes(path: str) -> MatrixAxes | None:
    """Axes of the matrices of the parameter at `path`; None where Muon leaves it to Adam."""
    for pattern, axes in MUON_MATRICES.items():
        if re.search(rf"(^|/){pattern}$", path):
            return axes
    return None


def _matrix_axes(path: str) -> MatrixAxes:
    axes = muon_axes(path)
    assert axes is not None, path
    return axes


def _decay(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """Adds weight_decay * decay[path] * p."""
    own = config.weight_decay_rules
    rules = own | {pattern: 0.0 for pattern in UNDECAYED if pattern not in own}

    def update(updates: Any, state: Any, params: Any, *, knobs: Knobs, **_: Any) -> tuple[Any, Any]:
        table = _table(params, rules)

        def decayed(u: jax.Array, p: jax.Array, multiplier: float) -> jax.Array:
            return u if multiplier == 0.0 else u + multiplier * knobs.weight_decay * p

        return jax.tree.map(decayed, updates, params, table), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _rate(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """Multiplies by -factor(t) * scale * rate[path]."""

    def update(
        updates: Any, state: Any, params: Any, *, knobs: Knobs, progress: Progress, **_: Any
    ) -> tuple[Any, Any]:
        multipliers = _table(params, config.learning_rate_rules)
        peaks = _by_path(params, lambda path: _peak(config, path))
        factor = learning_rate_factor(config, progress.step, progress.fraction)
        factor = -factor * knobs.learning_rate_scale
        scaled = jax.tree.map(lambda u, m, r: factor * (m * r) * u, updates, multipliers, peaks)
        return scaled, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _peak(config: OptimizerConfig, path: str) -> float:
    adam = config.name == "muon" and muon_axes(path) is None
    return config.adam_peak if adam else config.peak


def check_rules(config: OptimizerConfig, params: Any) -> None:
    """Raises UserError for a path pattern that matches no parameter: it would have no effect."""
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(trained(params))]
    for field in ("weight_decay_rules", "learning_rate_rules"):
        for pattern in getattr(config, field):
            try:
                matched = any(re.search(pattern, path) for path in paths)
            except re.error as error:
                raise UserError(
                    f"optimizer.{field} has {pattern!r}, which is no regular expression: {error}"
                ) from None
            if not matched:
                raise UserError(
                    f"optimizer.{field} has {pattern!r}, which matches no parameter; paths look "
                    f"like {paths[0]}"
                )


def _table(params: Any, rules: Mapping[str, float]) -> Any:
    """The first matching rule's value at every path, or 1."""

    def value(path: str) -> float:
        return next((v for pattern, v in rules.items() if re.search(pattern, path)), 1.0)

    return _by_path(params, value)


def _by_path(params: Any, function: Callable[[str], Any]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_name(path)), params)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
