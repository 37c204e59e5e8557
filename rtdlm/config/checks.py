"""What a run's choices must be, and which of them go together.

Each refusal is one sentence: what was found, what was expected, what to do.
"""

from dataclasses import fields
from typing import TYPE_CHECKING

from rtdlm.config.effect import require

if TYPE_CHECKING:
    from rtdlm.config.agi import AGIConfig

SCORED = ("mha", "gqa", "mqa", "ring", "sliding")
"""Kinds of attention in which a query scores each key."""
BUDGETS = ("num_steps", "num_epochs", "num_tokens", "max_seconds")


def check_together(config: "AGIConfig") -> None:
    """Raises UserError for the first choice that cannot be."""
    _check_model(config)
    _check_ingredients(config)
    _check_layers(config)
    _check_run(config)


def _check_model(config: "AGIConfig") -> None:
    for name in ("vocab_size", "max_seq_len", "d_model", "num_layers", "num_heads", "d_ff"):
        value = getattr(config, name)
        require(value >= 1, f"{name}={value} must be at least 1")
    require(
        config.attention.head_dim is not None or config.d_model % config.num_heads == 0,
        f"d_model={config.d_model} is not divisible by num_heads={config.num_heads}; "
        f"use a multiple of {config.num_heads} for d_model, or set attention.head_dim",
    )
    require(
        config.position_encoding != "rope" or config.head_dim % 2 == 0,
        f"heads have {config.head_dim} features (attention.head_dim, or d_model={config.d_model} "
        f"over num_heads={config.num_heads}), which is odd; rope rotates pairs of them",
    )
    require(
        config.position_encoding != "alibi" or config.attention_type in SCORED,
        f"position_encoding='alibi' cannot be combined with attention_type="
        f"{config.attention_type!r}: it lowers scores, which only "
        f"{', '.join(map(repr, SCORED))} have; use another position_encoding",
    )
    require(
        config.position_encoding == "rope" or config.rope.scaling == "none",
        f"rope.scaling={config.rope.scaling!r} has no effect with position_encoding="
        f"{config.position_encoding!r}; remove it or use position_encoding='rope'",
    )
    require(
        config.rope_base is None or config.rope_base > 0,
        f"rope_base={config.rope_base} must be positive",
    )
    require(
        config.kv_heads >= 1 and config.num_heads % config.kv_heads == 0,
        f"num_heads={config.num_heads} is not divisible by num_kv_heads={config.kv_heads}; "
        f"use a divisor of {config.num_heads}",
    )
    require(
        config.logit_soft_cap is None or config.logit_soft_cap > 0,
        f"logit_soft_cap={config.logit_soft_cap} must be positive",
    )
    require(0 <= config.dropout_rate < 1, f"dropout_rate={config.dropout_rate} is outside [0, 1)")
    require(
        config.layer_unroll is None or 1 <= config.layer_unroll <= config.num_layers,
        f"layer_unroll={config.layer_unroll} is outside 1 to num_layers={config.num_layers}",
    )


def _check_layers(config: "AGIConfig") -> None:
    attention, experts, depths = config.attention, config.experts, config.depths
    require(
        attention.sparse_form == "native" or config.attention_type == "sparse",
        f"attention.sparse_form={attention.sparse_form!r} has no effect with attention_type="
        f"{config.attention_type!r}; remove it or use attention_type='sparse'",
    )
    for name in ("sinks", "chosen", "global_tokens"):
        require(
            not getattr(attention, name) or attention.reach < config.max_seq_len,
            f"attention.{name}={getattr(attention, name)} has no effect with attention.window="
            f"{attention.reach} and max_seq_len={config.max_seq_len}: the window reads whole "
            f"rows; choose a smaller attention.window or remove attention.{name}",
        )
    require(
        attention.global_every is None or attention.global_every <= config.num_layers,
        f"attention.global_every={attention.global_every} exceeds num_layers="
        f"{config.num_layers}: no layer would be global; choose less or remove it",
    )
    require(
        experts.stride <= config.num_layers,
        f"experts.every={experts.every} exceeds num_layers={config.num_layers}: no layer would "
        "have experts; choose less",
    )
    if depths.capacity is not None:
        _check_depths(config)
    if config.memory.segment is not None:
        _check_memory(config)
    if config.graph.hops:
        _check_graph(config)
    _check_quantum(config)
    _check_controller(config)
    knowledge = config.knowledge
    count, told = _stacked(config)
    require(
        knowledge.kind == "none" or knowledge.stride <= count or "knowledge" in config.called,
        f"knowledge.every={knowledge.stride} exceeds {told}: no layer would have a memory; choose "
        "less",
    )
    require(
        experts.layers != "sandwich" or config.num_layers > 2,
        f"experts.layers='sandwich' leaves no layer with experts at num_layers="
        f"{config.num_layers}; use at least 3 layers",
    )


def _stacked(config: "AGIConfig") -> tuple[int, str]:
    """Layers that may have more than attention and a feed-forward layer, and what to call them."""
    if not config.core_layers:
        return config.num_layers, f"num_layers={config.num_layers}"
    return config.stacked_layers, (
        f"the {config.stacked_layers} layers before the controller's core "
        f"(num_layers={config.num_layers} less controller.core_layers={config.core_layers})"
    )


def _check_graph(config: "AGIConfig") -> None:
    graph, experts = config.graph, config.experts
    width = graph.width(config.d_model)
    require(
        graph.heads is None or width % graph.heads == 0,
        f"graph.heads={graph.heads} does not divide the {width} features of a token in the graph "
        "(graph.dim, or half of d_model); change one",
    )
    count, told = _stacked(config)
    require(
        graph.stride <= count,
        f"graph.every={graph.stride} exceeds {told}: no layer would have a graph; choose less",
    )
    require(
        config.depths.capacity is None,
        f"graph.hops={graph.hops} cannot be combined with depths.capacity="
        f"{config.depths.capacity} yet: a graph is over all tokens of a row; remove one",
    )
    require(
        config.mesh.context == 1,
        f"graph.hops={graph.hops} cannot be combined with mesh.context={config.mesh.context} yet: "
        "a token may read any earlier one of its row; use mesh.data",
    )
    layers = range(1, count + 1)
    both = (n for n in layers if n % graph.stride == 0 and _has_experts(config, n))
    require(
        not graph.routes or any(both),
        f"graph.route_experts=True has no effect with experts.num_experts={experts.num_experts}, "
        f"experts.layers={experts.layers!r}, experts.every={experts.stride} and graph.every="
        f"{graph.stride}: no layer has both experts and a graph; change one or remove it",
    )


def _check_quantum(config: "AGIConfig") -> None:
    number, quantum = config.quantum_layers, config.quantum
    count, told = _stacked(config)
    called = "quantum" in config.called
    require(called or 0 <= number <= count, f"quantum_layers={number} is outside 0 to {told}")
    for item in fields(quantum):
        value = getattr(quantum, item.name)
        require(
            number > 0 or value is None,
            f"quantum.{item.name}={value!r} has no effect with quantum_layers=0; set "
            "quantum_layers, for instance to 1, or remove it",
        )
    require(
        number == 0 or config.depths.capacity is None or quantum.form == "circuit",
        f"quantum.kind='attention' cannot be combined with depths.capacity="
        f"{config.depths.capacity} yet: it reads all tokens of a row; remove one",
    )
    require(
        number == 0 or config.mesh.context == 1 or quantum.form == "circuit",
        f"quantum.kind='attention' cannot be combined with mesh.context={config.mesh.context} yet: "
        "a token may read any earlier one of its row; use mesh.data",
    )


def _check_controller(config: "AGIConfig") -> None:
    controller, on = config.controller, config.use_compute_controller
    for name, value in controller.fields_set.items():
        require(
            on,
            f"controller.{name}={value} has no effect with use_compute_controller=False; set it "
            "to true or remove the option",
        )
    require(
        on or config.controller_strategy is None,
        f"controller_strategy={config.controller_strategy!r} has no effect with "
        "use_compute_controller=False; set it to true or remove the option",
    )
    if not on:
        return
    require(
        controller.layers < config.num_layers,
        f"controller.core_layers={controller.layers} leaves no layer before the core at "
        f"num_layers={config.num_layers}; choose fewer core layers or more layers",
    )
    require(
        controller.price is None or config.strategy != "thorough",
        f"controller.price={controller.price} has no effect with controller_strategy='thorough', "
        "which takes every step; remove one",
    )
    require(
        config.attention_type in ("mha", "gqa", "mqa"),
        f"attention_type={config.attention_type!r} cannot be combined with "
        "use_compute_controller=True yet: tokens that have stopped are read by 'mha', 'gqa' or "
        "'mqa' only",
    )
    require(
        config.depths.capacity is None,
        f"depths.capacity={config.depths.capacity} cannot be combined with "
        "use_compute_controller=True: both choose the tokens of a layer; remove one",
    )
    require(
        config.mesh.context == 1,
        f"mesh.context={config.mesh.context} cannot be combined with use_compute_controller=True "
        "yet: active tokens are moved together; use mesh.data",
    )
    require(
        config.experts.num_experts == 0,
        f"experts.num_experts={config.experts.num_experts} cannot be combined with "
        "use_compute_controller=True yet: capacity is of whole rows; remove one",
    )
    _check_calls(config)


def _check_calls(config: "AGIConfig") -> None:
    """Of modules that stand in the core."""
    told = f"controller.calls={list(config.called)}"
    if "knowledge" in config.called:
        knowledge = config.knowledge
        require(
            knowledge.kind != "none",
            f"{told} calls a memory that is not there with knowledge.kind='none'; choose a kind",
        )
        require(
            knowledge.every is None,
            f"knowledge.every={knowledge.every} has no effect with {told}: the memory stands in "
            "the controller's core; remove one",
        )
    if "quantum" in config.called:
        require(
            config.quantum_layers == 1,
            f"{told} needs quantum_layers=1, the one in the controller's core, not "
            f"{config.quantum_layers}",
        )
        require(
            config.quantum.form == "circuit",
            f"{told} cannot be combined with quantum.kind={config.quantum.form!r}: it reads all "
            "tokens of a row, and is not called for some; use quantum.kind='circuit'",
        )


def _has_experts(config: "AGIConfig", number: int) -> bool:
    """Of the layer with this number, from 1."""
    experts = config.experts
    if experts.layers == "sandwich":
        return experts.num_experts > 0 and 1 < number < config.num_layers
    return experts.num_experts > 0 and number % experts.stride == 0


def _check_depths(config: "AGIConfig") -> None:
    require(
        config.depths.stride <= config.num_layers,
        f"depths.every={config.depths.stride} exceeds num_layers={config.num_layers}: no layer "
        "would choose its tokens; choose less",
    )
    require(
        config.attention_type in ("mha", "gqa", "mqa"),
        f"attention_type={config.attention_type!r} cannot be combined with depths.capacity yet: "
        "chosen tokens are read by 'mha', 'gqa' or 'mqa' only",
    )


def _check_memory(config: "AGIConfig") -> None:
    memory = config.memory
    require(
        memory.segment is None or memory.segment <= config.max_seq_len,
        f"memory.segment={memory.segment} exceeds max_seq_len={config.max_seq_len}: no row would "
        "have a second segment; choose a smaller segment or longer rows",
    )
    count, told = _stacked(config)
    require(
        memory.stride <= count,
        f"memory.every={memory.every} exceeds {told}: no layer would have memory; choose less",
    )
    require(
        config.depths.capacity is None,
        f"memory.segment={memory.segment} cannot be combined with depths.capacity="
        f"{config.depths.capacity} yet: memory reads all tokens of a segment; remove one",
    )
    require(
        config.mesh.context == 1,
        f"memory.segment={memory.segment} cannot be combined with mesh.context="
        f"{config.mesh.context}: segments follow one another; use mesh.data",
    )
    if memory.attended_slots:
        _check_attended(config)
    if memory.across_steps:
        _check_across_steps(config)


def _check_attended(config: "AGIConfig") -> None:
    name, other = ("task_form", "matrix")
    if config.memory.is_attended:
        name, other = ("stm_form", "own_heads")
    require(
        config.attention_type in ("mha", "gqa", "mqa"),
        f"attention_type={config.attention_type!r} cannot be combined with "
        f"memory.{name}='attention' yet; use 'mha', 'gqa' or 'mqa', or memory.{name}={other!r}",
    )
    require(
        config.position_encoding in ("rope", "alibi", "none"),
        f"position_encoding={config.position_encoding!r} cannot be combined with "
        f"memory.{name}='attention': a position would be of a token's own segment only; use "
        "'rope', 'alibi' or 'none'",
    )


def _check_across_steps(config: "AGIConfig") -> None:
    segment, warmup = config.memory.segment, config.warmup
    assert segment is not None
    require(
        config.max_seq_len % segment == 0,
        f"max_seq_len={config.max_seq_len} is not whole segments of memory.segment={segment}, "
        "after which alone a row goes on (memory.across_steps=True); use a multiple",
    )
    for name in ("batch_size", "seq_len"):
        require(
            getattr(warmup, name) is None,
            f"warmup.{name}={getattr(warmup, name)} cannot be combined with "
            "memory.across_steps=True: the rows of a step go on in those of the next; remove one",
        )
    require(
        not config.data.weights,
        f"data.weights={list(config.data.weights)} cannot be combined with "
        "memory.across_steps=True: rows are read in the text's order; remove one",
    )


def _check_run(config: "AGIConfig") -> None:
    require(0 <= config.seed < 2**63, f"seed={config.seed} is outside 0 to 2**63 - 1")
    require(config.batch_size >= 1, f"batch_size={config.batch_size} must be at least 1")
    require(
        config.accumulate_steps >= 1 and config.batch_size % config.accumulate_steps == 0,
        f"batch_size={config.batch_size} is not divisible by "
        f"accumulate_steps={config.accumulate_steps}",
    )
    _check_mesh(config)
    _check_context(config)
    first = config.warmup.batch_size
    config.warmup.require_halves(batch_size=config.batch_size, seq_len=config.max_seq_len)
    require(
        first is None or first % config.accumulate_steps == 0,
        f"warmup.batch_size={first} is not divisible by accumulate_steps={config.accumulate_steps}",
    )
    budgets = {name: getattr(config, name) for name in BUDGETS}
    chosen = {name: value for name, value in budgets.items() if value is not None}
    require(
        len(chosen) <= 1,
        f"{' and '.join(f'{k}={v}' for k, v in chosen.items())} are two budgets for one run; "
        "keep one",
    )
    for name, value in chosen.items():
        require(value > 0, f"{name}={value} must be positive")


def _check_mesh(config: "AGIConfig") -> None:
    mesh, experts = config.mesh, config.experts.num_experts
    for name in ("distributed_training", "tensor_parallel"):
        require(
            not getattr(config, name) or mesh.strategy is None,
            f"{name}=True and mesh.strategy={mesh.strategy!r} both arrange the devices; keep one",
        )
    require(
        not config.distributed_training or mesh.fsdp == 1,
        f"mesh.fsdp={mesh.fsdp} has no effect with distributed_training=True, which splits no "
        "parameters; use mesh.strategy=fsdp alone",
    )
    require(
        mesh.expert == 1 or experts > 0,
        f"mesh.expert={mesh.expert} has no effect with experts.num_experts=0; set "
        "experts.num_experts or remove mesh.expert",
    )
    require(
        experts % mesh.expert == 0,
        f"experts.num_experts={experts} does not split over mesh.expert={mesh.expert} devices; use "
        f"a multiple of {mesh.expert}",
    )
    require(
        mesh.expert == 1 or config.experts.dispatch == "capacity",
        f"mesh.expert={mesh.expert} cannot be combined with experts.dispatch="
        f"{config.experts.dispatch!r} yet: what travels to another device must be bounded; use "
        "experts.dispatch=capacity",
    )
    mixed = {
        "experts.num_experts": experts > 0,
        "depths.capacity": config.depths.capacity is not None,
        "use_compute_controller": config.use_compute_controller,
    }
    for name, there in mixed.items():
        require(
            config.mesh_strategy != "pmap" or not there,
            f"mesh.strategy='pmap' cannot be combined with {name}: its losses are no sums over "
            "rows; use mesh.strategy=data",
        )


def _check_context(config: "AGIConfig") -> None:
    ways, first = config.mesh.context, config.warmup.seq_len
    require(
        ways == 1 or config.attention_type == "ring",
        f"mesh.context={ways} has no effect with attention_type={config.attention_type!r}: only "
        "'ring' splits the tokens of a row; use it or remove mesh.context",
    )
    for name, length in (("max_seq_len", config.max_seq_len), ("warmup.seq_len", first)):
        require(
            length is None or length % ways == 0,
            f"{name}={length} does not split over mesh.context={ways} devices; use a multiple "
            f"of {ways}",
        )


def _check_ingredients(config: "AGIConfig") -> None:
    experts, places = config.experts, config.short_conv_places
    require(
        not experts.num_experts or config.feedforward == "swiglu",
        f"feedforward={config.feedforward!r} has no effect with experts.num_experts="
        f"{experts.num_experts}: experts are 'swiglu'; remove feedforward or the experts",
    )
    for name in ("embedding_std", "embedding_scale", "norm_epsilon"):
        value = getattr(config, name)
        require(value is None or value > 0, f"{name}={value} must be positive")
    require(
        not experts.num_experts or config.biases != "all",
        f"biases='all' has no effect on experts (experts.num_experts={experts.num_experts}), "
        "which have none; use biases='qkv' or 'none'",
    )
    require(
        config.short_conv == 0 or config.short_conv >= 2,
        f"short_conv={config.short_conv} must be 0 (none) or at least 2; usual are 3 and 4",
    )
    require(
        places is None or config.short_conv > 0,
        f"short_conv_places={places} has no effect with short_conv=0; set short_conv, for "
        "instance to 4, or remove it",
    )
    require(
        places is None or 0 < len(places) == len(set(places)),
        f"short_conv_places={places} must name each place once, and at least one; to have no "
        "convolutions set short_conv=0",
    )
