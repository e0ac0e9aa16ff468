"""Small decoders of tokens as onnxruntime-genai takes them: `python -m models.lora` trains one.

Their operators are fused, with a cache of keys and values, and their weights have 4 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

BLOCK = 32
MICROSOFT = "com.microsoft"


def quantized(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a weight [N, K]: two numbers of 4 bits a byte, their scales, and what these stand for."""
    blocks = w.reshape(len(w), -1, BLOCK)
    scales = np.abs(blocks).max(-1) / 7
    numbers = np.clip(np.rint(blocks / scales[..., None]) + 8, 0, 15).astype(np.uint8)
    packed = numbers[..., ::2] | numbers[..., 1::2] << 4
    stands = (numbers.astype(np.float32) - 8) * scales[..., None]
    return packed, scales.astype(np.float32), stands.reshape(w.shape).astype(np.float32)


class Decoder:
    """Builds one, with a cache of keys and values.

    Args:
        layers, width, heads, vocabulary: Its sizes; there are half as many heads of keys.
        bits: 4, or 32 for the numbers that the 4 bits stand for, in MatMul.
        seed: Of its weights.
        weights: In the place of those that are drawn, by name, as a decoder of 32 bits has them.
    """

    def __init__(
        self, layers: int = 1, width: int = 64, heads: int = 4, vocabulary: int = 32, bits: int = 4,
        seed: int = 0, weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        self.width, self.heads, self.bits, self.given = width, heads, bits, weights or {}
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        port = helper.make_tensor_value_info
        half, size = heads // 2, width // heads
        cache = ["N", half, "P", size]
        self.inputs = [port("input_ids", 7, ["N", "S"]), port("attention_mask", 7, ["N", "T"])]
        self.outputs = [port("logits", 1, ["N", "S", vocabulary])]  # and "scores" [N, classes, S]
        self._lengths()
        angles = np.outer(np.arange(128), 10000.0 ** (-np.arange(size // 2) / (size // 2)))
        self._weight("cos_cache", np.cos(angles))
        self._weight("sin_cache", np.sin(angles))
        self._weight("embed", self.rng.standard_normal((vocabulary, width)))
        h = self._node("Gather", ["embed", "input_ids"], "/embed_tokens/Gather")
        skip = ""
        for k in range(layers):
            for kind in ("key", "value"):
                self.inputs.append(port(f"past.{k}.{kind}", 1, cache))
                self.outputs.append(port(f"present.{k}.{kind}", 1, ["N", half, "T", size]))
            h, skip = self._layer(f"layers.{k}", k, h, skip)
        h, _ = self._norm("norm", h, skip)
        self._linear("lm_head", h, vocabulary, "logits")
        self._node("Transpose", ["logits"], "/scores", ["scores"], perm=[0, 2, 1])

    def model(self) -> onnx.ModelProto:
        """The file."""
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", 14), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=7)

    def _node(self, op: str, inputs: Any, name: str, outputs: Any = 1, **attributes: Any) -> str:
        given = [f"{name}/output_{k}" for k in range(outputs)] if outputs == 1 else outputs
        domain = attributes.pop("domain", "")
        node = helper.make_node(op, inputs, given, name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return given[0]

    def _weight(self, name: str, array: np.ndarray, dtype: Any = np.float32) -> str:
        array = np.asarray(self.given.get(name, array), dtype)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def _lengths(self) -> None:
        """The numbers of keys, of the mask."""
        self._weight("one", np.array([1]), np.int64)
        self._weight("at", np.array(1), np.int64)
        total = self._node("ReduceSum", ["attention_mask", "one"], "/mask/ReduceSum", keepdims=0)
        last = self._node("Sub", [total, "one"], "/mask/Sub")
        self._node("Cast", [last], "/mask/seqlens", to=6)
        shape = self._node("Shape", ["attention_mask"], "/mask/Shape")
        size = self._node("Gather", [shape, "at"], "/mask/Gather", axis=0)
        self._node("Cast", [size], "/mask/total", to=6)

    def _linear(self, name: str, x: str, out: int, output: str = "", width: int = 0) -> str:
        width = width or self.width
        w = self.rng.standard_normal((out, width)) / np.sqrt(width)
        if self.bits != 4:
            self._weight(f"{name}.weight", quantized(w)[2].T)
            y = self._node("MatMul", [x, f"{name}.weight"], f"/{name}/MatMul")
        else:
            if f"{name}.weight" in self.given:
                w = self.given[f"{name}.weight"].T
            packed, scales, _ = quantized(w)
            self.weights.append(numpy_helper.from_array(packed, f"{name}.weight"))
            self._weight(f"{name}.scales", scales)
            y = self._node(
                "MatMulNBits", [x, f"{name}.weight", f"{name}.scales"], f"/{name}/MatMul", K=width,
                N=out, bits=4, block_size=BLOCK, domain=MICROSOFT,
            )  # fmt: skip
        if output:
            self.nodes[-1].output[0] = y = output
        return y

    def _norm(self, name: str, h: str, skip: str) -> tuple[str, str]:
        """The normalised sum, and the sum."""
        self._weight(f"{name}.scale", 1 + self.rng.standard_normal(self.width) / 10)
        if not skip:
            y = self._node(
                "SimplifiedLayerNormalization", [h, f"{name}.scale"], f"/{name}", axis=-1,
                epsilon=1e-5, stash_type=1,
            )  # fmt: skip
            return y, h
        outputs = [f"/{name}/output_0", "", "", f"/{name}/output_3"]
        y = self._node(
            "SkipSimplifiedLayerNormalization", [skip, h, f"{name}.scale"], f"/{name}", outputs,
            epsilon=1e-5, domain=MICROSOFT,
        )  # fmt: skip
        return y, outputs[3]

    def _layer(self, name: str, k: int, h: str, skip: str) -> tuple[str, str]:
        y, skip = self._norm(f"{name}.input_norm", h, skip)
        half = self.width // 2
        sizes = {"q": self.width, "k": half, "v": half}
        q, keys, values = (self._linear(f"{name}.{x}_proj", y, n) for x, n in sizes.items())
        outputs = [f"/{name}/attention", f"present.{k}.key", f"present.{k}.value"]
        given = [
            q, keys, values, f"past.{k}.key", f"past.{k}.value", "/mask/seqlens/output_0",
            "/mask/total/output_0", "cos_cache", "sin_cache",
        ]  # fmt: skip
        y = self._node(
            "GroupQueryAttention", given, f"/{name}/GroupQueryAttention", outputs, do_rotary=1,
            num_heads=self.heads, kv_num_heads=self.heads // 2, domain=MICROSOFT,
        )  # fmt: skip
        y, skip = self._norm(f"{name}.norm", self._linear(f"{name}.o_proj", y, self.width), skip)
        gate, up = (self._linear(f"{name}.{x}_proj", y, 2 * self.width) for x in ("gate", "up"))
        s = self._node("Sigmoid", [gate], f"/{name}/Sigmoid")
        s = self._node("Mul", [gate, s], f"/{name}/silu")
        s = self._node("Mul", [s, up], f"/{name}/Mul")
        return self._linear(f"{name}.down_proj", s, self.width, width=2 * self.width), skip


def feeds_of(model: onnx.ModelProto, ids: np.ndarray) -> dict[str, np.ndarray]:
    """What a decoder is fed for whole texts: an empty cache."""
    found: dict[str, np.ndarray] = {
        "input_ids": ids.astype(np.int64),
        "attention_mask": np.ones(ids.shape, np.int64),
    }
    for port in model.graph.input:
        if port.name.startswith("past."):
            _, heads, _, size = (d.dim_value for d in port.type.tensor_type.shape.dim)
            found[port.name] = np.zeros((len(ids), heads, 0, size), np.float32)
    return found
