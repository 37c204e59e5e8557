"""A model as an ONNX graph: `input_ids` int64 [batch, length] -> `logits` float32 of the same rows.

Batch and length are free. The graph is written out operation by operation from the parameters, in
float32 and without a cache; positions and masks are made in it from the length. It covers what the
families of `rtdlm.interop.hugging_face` have. An expert takes every token that chose it, as in
generation; all experts are computed for all tokens, since the graph cannot group them.

Axes: B batch, T query time, S key time, D model, H heads, K key-value heads, G = H / K, E head
features, F hidden, X experts.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rtdlm.config import AGIConfig
from rtdlm.models.block import DEFAULT_ROPE_BASE
from rtdlm.models.layers import Layer, layers_of
from rtdlm.models.norms import LAYER_EPSILON, RMS_EPSILON
from rtdlm.modules.attention.rope_scaling import scaled_planes

OPSET, IR_VERSION = 18, 9
MASKED = np.float32(-3e38)

Arrays = Mapping[str, Mapping[str, Any]]


def onnx_model(config: AGIConfig, params: Arrays) -> onnx.ModelProto:
    """The graph of a model that some family can express; see `foreign_config`."""
    graph = _Graph(config, params)
    graph.run()
    shape = ["batch", "length"]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, config.vocab_size])
    made = helper.make_graph(graph.nodes, "rtdlm", [ids], [logits], graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version, model.producer_name = IR_VERSION, "rtdlm"
    return model


class _Graph:
    """The graph while it grows; a value is known by its name."""

    def __init__(self, config: AGIConfig, params: Arrays) -> None:
        self.config = config
        self.params = params
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._masks: dict[bool, str] = {}
        self._turn: tuple[str, str] | None = None

    def run(self) -> None:
        """Everything from `input_ids` to `logits`."""
        config = self.config
        length = self.op("Gather", self.op("Shape", "input_ids"), self.const(np.int64(1)))
        place_T = self.op("Range", self.const(np.int64(0)), length, self.const(np.int64(1)))
        self._positions(place_T)
        table_VD = self.weight("decoder", "embedding")
        embedding = self.const(table_VD)
        x = self.op("Gather", embedding, "input_ids")
        if config.embedding_scale is not None:
            x = self.op("Mul", x, self.const(np.float32(config.embedding_scale)))
        if config.position_encoding == "learned":
            table = self.const(self.weight("decoder", "position"))
            x = self.op("Add", x, self.op("Gather", table, place_T))
        for layer in layers_of(config):
            x = self._block(x, layer)
        x = self._norm(x, "decoder/final_norm", ())
        if config.tie_embeddings:
            output = self.op("Transpose", embedding, perm=[1, 0])
        else:
            output = self.const(self.weight("decoder", "output").T)
        logits = self._bound(self.op("MatMul", x, output), config.logit_soft_cap)
        self.nodes.append(helper.make_node("Identity", [logits], ["logits"]))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """One more operation with one result."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def const(self, value: np.ndarray | np.generic) -> str:
        """A constant."""
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def shape(self, *sizes: int) -> str:
        """A shape for Reshape; 0 keeps what is there."""
        return self.const(np.array(sizes, np.int64))

    def weight(self, module: str, name: str, *at: int) -> np.ndarray:
        """A parameter, or a layer's part of it."""
        return np.asarray(self.params[module][name], np.float32)[at]

    def _positions(self, place_T: str) -> None:
        """Masks `[T, S]`, and cosine and sine of every plane `[T, E / 2]`."""
        config = self.config
        query_T1 = self.op("Unsqueeze", place_T, self.const(np.array([1], np.int64)))
        key_1S = self.op("Unsqueeze", place_T, self.const(np.array([0], np.int64)))
        back_TS = self.op("Sub", query_T1, key_1S)
        past = self.op("GreaterOrEqual", back_TS, self.const(np.int64(0)))
        near = self.op("Less", back_TS, self.const(np.int64(config.attention.reach)))
        self._masks = {False: past, True: self.op("And", past, near)}
        if config.position_encoding != "rope":
            return
        base = config.rope_base or DEFAULT_ROPE_BASE
        planes = scaled_planes(config.rope, head_dim=config.head_dim, base=base)
        frequency_1R = self.const(planes.frequency_R.astype(np.float32)[None])
        angle_TR = self.op("Mul", self.op("Cast", query_T1, to=TensorProto.FLOAT), frequency_1R)
        size = self.const(np.float32(planes.length))
        cos, sin = (self.op("Mul", self.op(kind, angle_TR), size) for kind in ("Cos", "Sin"))
        self._turn = cos, sin

    def _block(self, x: str, layer: Layer) -> str:
        module, turn = layer.module, layer.turn
        read = self._attention(self._norm(x, f"{module}/attention_norm", (turn,)), layer)
        x = self._add(x, read, f"{module}/attention_output_norm", turn)
        normed = self._norm(x, f"{module}/feedforward_norm", (turn,))
        run = self._experts if layer.plan.experts else self._feedforward
        return self._add(x, run(normed, layer), f"{module}/feedforward_output_norm", turn)

    def _add(self, x: str, write: str, norm: str, turn: int) -> str:
        if self.config.norm_outputs:
            write = self._norm(write, norm, (turn,))
        return self.op("Add", x, write)

    def _norm(self, x: str, module: str, at: tuple[int, ...], *, head: bool = False) -> str:
        config, last = self.config, self.const(np.array([-1], np.int64))
        layer_norm = config.norm == "layer" and not head
        given = config.norm_epsilon
        epsilon = (LAYER_EPSILON if layer_norm else RMS_EPSILON) if given is None else given
        if layer_norm:
            x = self.op("Sub", x, self.op("ReduceMean", x, last))
        mean = self.op("ReduceMean", self.op("Mul", x, x), last)
        root = self.op("Sqrt", self.op("Add", mean, self.const(np.float32(epsilon))))
        scale = self.weight(module, "scale", *at)
        if config.norm == "rms_centred":
            scale = 1 + scale
        y = self.op("Mul", self.op("Div", x, root), self.const(scale))
        if "bias" in self.params[module]:
            y = self.op("Add", y, self.const(self.weight(module, "bias", *at)))
        return y

    def _project(self, x: str, module: str, *at: int, inputs: int = 1) -> str:
        """x W (+ b), its outputs as one axis; W has `inputs` axes to sum over."""
        w = self.weight(module, "w", *at)
        rows = int(np.prod(w.shape[:inputs]))
        y = self.op("MatMul", x, self.const(w.reshape(rows, -1)))
        if "b" in self.params[module]:
            y = self.op("Add", y, self.const(self.weight(module, "b", *at).reshape(-1)))
        return y

    def _attention(self, x: str, layer: Layer) -> str:
        config, module = self.config, f"{layer.module}/attention"
        kv_heads, width = config.kv_heads, config.head_dim
        group = config.num_heads // kv_heads

        def heads(name: str, count: int) -> str:
            """`[B, T, K, G, E]`, queries and keys normalised and turned."""
            y = self._project(x, f"{module}/{name}", layer.turn)
            y = self.op("Reshape", y, self.shape(0, 0, kv_heads, count, width))
            if config.qk_norm and name != "value":
                y = self._norm(y, f"{module}/{name}_norm", (layer.turn,), head=True)
            y = self.op("Transpose", y, perm=[0, 2, 3, 1, 4])
            return y if name == "value" else self._rotate(y)

        query, key, value = heads("query", group), heads("key", 1), heads("value", 1)
        scale = width**-0.5 if config.attention.scale is None else config.attention.scale
        query = self.op("Mul", query, self.const(np.float32(scale)))
        scores = self.op("MatMul", query, self.op("Transpose", key, perm=[0, 1, 2, 4, 3]))
        scores = self._bound(scores, config.attention.soft_cap)
        mask = self._masks[layer.plan.attention == "sliding"]
        scores = self.op("Where", mask, scores, self.const(MASKED))
        read = self.op("MatMul", self.op("Softmax", scores, axis=-1), value)
        read = self.op("Transpose", read, perm=[0, 3, 1, 2, 4])
        read = self.op("Reshape", read, self.shape(0, 0, config.num_heads * width))
        return self._project(read, f"{module}/output", layer.turn, inputs=2)

    def _rotate(self, x: str) -> str:
        """Turns the planes of `[..., T, E]`."""
        if self._turn is None:
            return x
        cos, sin = self._turn
        half, axis = self.config.head_dim // 2, self.const(np.array([-1], np.int64))

        def part(start: int) -> str:
            ends = [self.const(np.array([at], np.int64)) for at in (start, start + half)]
            return self.op("Slice", x, *ends, axis)

        first, second = part(0), part(half)
        left = self.op("Sub", self.op("Mul", first, cos), self.op("Mul", second, sin))
        right = self.op("Add", self.op("Mul", second, cos), self.op("Mul", first, sin))
        return self.op("Concat", left, right, axis=-1)

    def _feedforward(self, x: str, layer: Layer) -> str:
        module, kind = f"{layer.module}/feedforward", self.config.feedforward
        up = self._project(x, f"{module}/up", layer.turn)
        if kind in ("swiglu", "geglu"):
            gate = self._project(x, f"{module}/gate", layer.turn)
            up = self.op("Mul", self._activate(gate, kind), up)
        else:
            up = self._activate(up, kind)
        return self._project(up, f"{module}/down", layer.turn)

    def _activate(self, a: str, kind: str) -> str:
        if kind == "swiglu":
            return self.op("Mul", a, self.op("Sigmoid", a))
        if kind == "gelu":
            share = self.op("Erf", self.op("Mul", a, self.const(np.float32(0.5**0.5))))
        else:
            cube = self.op("Mul", a, self.op("Mul", a, a))
            bent = self.op("Add", a, self.op("Mul", cube, self.const(np.float32(0.044715))))
            share = self.op(
                "Tanh", self.op("Mul", bent, self.const(np.float32((2 / np.pi) ** 0.5)))
            )
        share = self.op("Add", share, self.const(np.float32(1)))
        return self.op("Mul", self.op("Mul", a, share), self.const(np.float32(0.5)))

    def _experts(self, x: str, layer: Layer) -> str:
        module, experts = f"{layer.module}/experts", self.config.experts
        chances = self.op("Softmax", self._project(x, f"{module}/router", layer.turn), axis=-1)
        count = self.const(np.array([experts.choices], np.int64))
        values, places = f"top_{len(self.nodes)}", f"places_{len(self.nodes)}"
        self.nodes.append(helper.make_node("TopK", [chances, count], [values, places], axis=-1))
        if experts.choices > 1:
            total = self.op("ReduceSum", values, self.const(np.array([-1], np.int64)))
            values = self.op("Div", values, total)
        # Gates [B, T, X]: the chosen ones' values in their places, zeros elsewhere.
        zeros = self.op("Mul", chances, self.const(np.float32(0)))
        gates = self.op("ScatterElements", zeros, places, values, axis=-1)
        result = ""
        for expert in range(experts.num_experts):
            at = (layer.turn, expert)
            gate = self._project(x, f"{module}/gate", *at)
            inner = self.op(
                "Mul", self._activate(gate, "swiglu"), self._project(x, f"{module}/up", *at)
            )
            own = self.op("Gather", gates, self.const(np.array([expert], np.int64)), axis=-1)
            y = self.op("Mul", self._project(inner, f"{module}/down", *at), own)
            result = self.op("Add", result, y) if result else y
        return result

    def _bound(self, x: str, cap: float | None) -> str:
        """cap tanh(x / cap)."""
        if cap is None:
            return x
        inverse, size = self.const(np.float32(1 / cap)), self.const(np.float32(cap))
        return self.op("Mul", self.op("Tanh", self.op("Mul", x, inverse)), size)
