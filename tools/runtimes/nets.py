"""The nets of the matrix of runtimes, and what is made of each: 25 gradients.

All are tiny. `Net.text` is written with `{N}`, `{T}`, `{H}`, `{W}` where a size is open, and in
float32; the same text gives the net with fixed sizes, in half precision, and in float64, in which
the gradients are checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import onnx

OPSET, IR_VERSION = 17, 8
FLOATS = {"float": np.float32, "float16": np.float16, "double": np.float64}
SIZES = {"N": 2, "T": 3, "H": 8, "W": 8}
"""The sizes of the first run."""
OTHERS = {"N": 3, "T": 4, "H": 4, "W": 12}
"""Those of a second run, which the same loaded file has to get right where its sizes are open."""
KINDS = {"open": None, "fixed": SIZES, "other": OTHERS}
"""The kinds of files, with the sizes that are fixed in them."""


@dataclass(frozen=True)
class Net:
    """A net in ONNX's textual syntax, and the shapes of its weights.

    Attributes:
        text: Its graph.
        weights: The shapes of its weights, by name.
        bounds: Of an input of whole numbers, how many there are.
    """

    text: str
    weights: dict[str, tuple[int, ...]]
    bounds: dict[str, int] = field(default_factory=dict)

    def model(self, dtype: str = "float", sizes: dict[str, int] | None = None) -> onnx.ModelProto:
        """The net in a dtype, with open sizes or with those that are given."""
        text = self.text
        for name in SIZES:
            text = text.replace(f"{{{name}}}", str(sizes[name]) if sizes else name)
        text = re.sub(r"\bfloat\b", dtype, text)
        head = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}]>'
        model = onnx.parser.parse_model(f"{head}\n{text}")
        rng = np.random.default_rng(0)
        for name, shape in self.weights.items():
            array = 0.4 * rng.standard_normal(shape)
            if name.startswith("var"):
                array = np.abs(array) + 0.5
            tensor = onnx.numpy_helper.from_array(np.asarray(array, FLOATS[dtype]), name)
            model.graph.initializer.append(tensor)
        onnx.checker.check_model(model, full_check=True)
        return model

    def feeds(self, sizes: dict[str, int], dtype: str = "float") -> dict[str, np.ndarray]:
        """Random inputs of some sizes."""
        rng = np.random.default_rng(1)
        feeds = {}
        for port in self.model(sizes=sizes).graph.input:
            shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
            if port.name in self.bounds:
                feeds[port.name] = rng.integers(0, self.bounds[port.name], shape)
            else:
                feeds[port.name] = rng.standard_normal(shape).astype(np.float32)
                feeds[port.name] = feeds[port.name].astype(FLOATS[dtype])
        return feeds


NETS = {
    "mlp": Net(
        """net (float[{N}, 8] x) => (float[{N}, 8] y) {
            a = Gemm<transB = 1>(x, w1, b1)
            r = Relu(a)
            c = Gemm<transB = 1>(r, w2, b2)
            t = Tanh(c)
            y = MatMul(t, w3)
        }""",
        {"w1": (8, 8), "b1": (8,), "w2": (8, 8), "b2": (8,), "w3": (8, 8)},
    ),
    "cnn": Net(
        """net (float[{N}, 3, 8, 8] x) => (float[{N}, 5] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            r = Relu(a)
            p = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(r)
            c = Conv<pads = [1, 1, 1, 1]>(p, w2, b2)
            s = Relu(c)
            q = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(s)
            f = Flatten(q)
            y = Gemm<transB = 1>(f, w3, b3)
        }""",
        {"w1": (4, 3, 3, 3), "b1": (4,), "w2": (6, 4, 3, 3), "b2": (6,), "w3": (5, 24), "b3": (5,)},
    ),
    "residual": Net(
        """net (float[{N}, 3, {H}, {W}] x) => (float[{N}, 5] y) {
            a = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w1, b1)
            n = BatchNormalization(a, scale, bias, mean, var)
            r = Relu(n)
            c = Conv<pads = [1, 1, 1, 1]>(r, w2, b2)
            s = Add(r, c)
            t = Relu(s)
            e = ReduceMean<axes = [2, 3], keepdims = 0>(t)
            y = Gemm<transB = 1>(e, w3, b3)
        }""",
        {
            "w1": (6, 3, 3, 3),
            "b1": (6,),
            "scale": (6,),
            "bias": (6,),
            "mean": (6,),
            "var": (6,),
            "w2": (6, 6, 3, 3),
            "b2": (6,),
            "w3": (5, 6),
            "b3": (5,),
        },
    ),
    "depthwise": Net(
        """net (float[{N}, 3, 8, 8] x) => (float[{N}, 5] y)
        <float low = {0}, float high = {6}> {
            a = Conv(x, w1)
            d = Conv<pads = [1, 1, 1, 1], group = 6, strides = [2, 2]>(a, w2)
            r = Clip(d, low, high)
            c = Conv(r, w3)
            p = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(a)
            s = Add(c, p)
            h = HardSwish(s)
            g = GlobalAveragePool(h)
            f = Flatten(g)
            y = Gemm<transB = 1>(f, w4, b4)
        }""",
        {"w1": (6, 3, 1, 1), "w2": (6, 1, 3, 3), "w3": (6, 6, 1, 1), "w4": (5, 6), "b4": (5,)},
    ),
    "unet": Net(
        """net (float[{N}, 3, {H}, {W}] x) => (float[{N}, 2, {H}, {W}] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
            r = Relu(a)
            p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
            c = Conv<pads = [1, 1, 1, 1]>(p, w2, b2)
            s = Relu(c)
            u = ConvTranspose<kernel_shape = [2, 2], strides = [2, 2]>(s, w3)
            z = Concat<axis = 1>(u, r)
            v = Conv<pads = [1, 1, 1, 1]>(z, w4)
            y = Sigmoid(v)
        }""",
        {
            "w1": (4, 3, 3, 3),
            "b1": (4,),
            "w2": (4, 4, 3, 3),
            "b2": (4,),
            "w3": (4, 4, 2, 2),
            "w4": (2, 8, 3, 3),
        },
    ),
    "lstm": Net(
        """net (float[{T}, {N}, 4] x) => (float[{T}, 2, {N}, 4] y) {
            y = LSTM<hidden_size = 4, direction = "bidirectional">(x, w, r, b)
        }""",
        {"w": (2, 16, 4), "r": (2, 16, 4), "b": (2, 32)},
    ),
    "gru": Net(
        """net (float[{T}, {N}, 4] x) => (float[{N}, 3] y) <int64[1] first = {0}> {
            h, last = GRU<hidden_size = 4, linear_before_reset = 1>(x, w, r, b)
            s = Squeeze(last, first)
            y = MatMul(s, v)
        }""",
        {"w": (1, 12, 4), "r": (1, 12, 4), "b": (1, 24), "v": (4, 3)},
    ),
    "gpt": Net(
        """net (int64[{N}, {T}] tokens) => (float[{N}, {T}, 11] logits)
        <int64 zero = {0}, int64 one = {1}, int64[4] split = {0, 0, 2, 4},
         int64[3] join = {0, 0, 8}, int64[1] front = {0}, int64[1] back = {1},
         float ban = {-10000}> {
            words = Gather(embedding, tokens)
            shape = Shape(tokens)
            length = Gather(shape, one)
            count = Range(zero, length, one)
            places = Gather(positions, count)
            embedded = Add(words, places)
            normed = LayerNormalization(embedded, scale, bias)
            q0 = MatMul(normed, wq)
            k0 = MatMul(normed, wk)
            v0 = MatMul(normed, wv)
            q1 = Reshape(q0, split)
            k1 = Reshape(k0, split)
            v1 = Reshape(v0, split)
            q = Transpose<perm = [0, 2, 1, 3]>(q1)
            k = Transpose<perm = [0, 2, 3, 1]>(k1)
            v = Transpose<perm = [0, 2, 1, 3]>(v1)
            scores = MatMul(q, k)
            row = Unsqueeze(count, back)
            column = Unsqueeze(count, front)
            later = Less(row, column)
            masked = Where(later, ban, scores)
            p = Softmax<axis = -1>(masked)
            o0 = MatMul(p, v)
            o1 = Transpose<perm = [0, 2, 1, 3]>(o0)
            o2 = Reshape(o1, join)
            o = MatMul(o2, wo)
            stream = Add(embedded, o)
            tied = Transpose<perm = [1, 0]>(embedding)
            logits = MatMul(stream, tied)
        }""",
        {
            "embedding": (11, 8),
            "positions": (6, 8),
            "scale": (8,),
            "bias": (8,),
            "wq": (8, 8),
            "wk": (8, 8),
            "wv": (8, 8),
            "wo": (8, 8),
        },
        {"tokens": 11},
    ),
    "block": Net(
        """net (float[{N}, {T}, 8] x) => (float[{N}, {T}, 8] y)
        <int64[4] split = {0, 0, 2, 4}, int64[3] join = {0, 0, 8}, float half = {0.5},
         float unit = {1}, float root = {0.70710678}> {
            n = LayerNormalization(x, s1, c1)
            q0 = MatMul(n, wq)
            k0 = MatMul(n, wk)
            v0 = MatMul(n, wv)
            q1 = Reshape(q0, split)
            k1 = Reshape(k0, split)
            v1 = Reshape(v0, split)
            q = Transpose<perm = [0, 2, 1, 3]>(q1)
            k = Transpose<perm = [0, 2, 3, 1]>(k1)
            v = Transpose<perm = [0, 2, 1, 3]>(v1)
            a = MatMul(q, k)
            scaled = Mul(a, half)
            p = Softmax<axis = -1>(scaled)
            o0 = MatMul(p, v)
            o1 = Transpose<perm = [0, 2, 1, 3]>(o0)
            o2 = Reshape(o1, join)
            o = MatMul(o2, wo)
            r = Add(x, o)
            m = LayerNormalization(r, s2, c2)
            f0 = MatMul(m, w1)
            f = Add(f0, b1)
            t = Mul(f, root)
            e = Erf(t)
            e1 = Add(e, unit)
            g0 = Mul(f, e1)
            g = Mul(g0, half)
            h = MatMul(g, w2)
            y = Add(r, h)
        }""",
        {
            "s1": (8,),
            "c1": (8,),
            "wq": (8, 8),
            "wk": (8, 8),
            "wv": (8, 8),
            "wo": (8, 8),
            "s2": (8,),
            "c2": (8,),
            "w1": (8, 16),
            "b1": (16,),
            "w2": (16, 8),
        },
    ),
    "loop": Net(
        """net (float[{N}, 4] x) => (float[{N}, 4] y) <int64 steps = {3}, bool go = {1}> {
            y = Loop(steps, go, x) <body = body (int64 i, bool on, float[{N}, 4] s)
                => (bool onward, float[{N}, 4] next) {
                onward = Identity(on)
                m = MatMul(s, w)
                next = Tanh(m)
            }>
        }""",
        {"w": (4, 4)},
    ),
    "if": Net(
        """net (float[{N}, 4] x) => (float[{N}, 4] y) <float least = {-1000}> {
            sum = ReduceSum<keepdims = 0>(x)
            above = Greater(sum, least)
            y = If(above) <
                then_branch = above () => (float[{N}, 4] p) {
                    q = MatMul(x, w)
                    p = Tanh(q)
                },
                else_branch = below () => (float[{N}, 4] n) {
                    n = Neg(x)
                }>
        }""",
        {"w": (4, 4)},
    ),
    "gnn": Net(
        """net (float[{N}, 4] x, int64[{T}] source, int64[{T}] target) => (float[{N}, 3] y)
        <int64[1] back = {1}, int64[2] wide = {1, 4}, float none = {0}> {
            h = MatMul(x, w1)
            messages = Gather(h, source)
            zeros = Mul(h, none)
            column = Unsqueeze(target, back)
            spread = Expand(column, wide)
            gathered = ScatterElements<axis = 0, reduction = "add">(zeros, spread, messages)
            r = Tanh(gathered)
            y = MatMul(r, w2)
        }""",
        {"w1": (4, 4), "w2": (4, 3)},
        {"source": 2, "target": 2},
    ),
    "loss": Net(
        """net (float[{N}, 6] x, int64[{N}] labels) => (float loss) {
            a = MatMul(x, w1)
            r = Relu(a)
            scores = Gemm<transB = 1>(r, w2, b2)
            loss = SoftmaxCrossEntropyLoss<reduction = "mean">(scores, labels)
        }""",
        {"w1": (6, 8), "w2": (4, 8), "b2": (4,)},
        {"labels": 4},
    ),
}


@dataclass(frozen=True)
class Gradient:
    """What a file computes: of a net, by a transform, with respect to tensors.

    Attributes:
        net: The name of the net.
        of: "inputs" or "all" of a gradient, "jacobian" or "hvp".
        wrt: The tensors; None for those that the transform takes by default, or all.
        dtype: That of the net.
    """

    net: str
    of: str
    wrt: str | None = None
    dtype: str = "float"

    @property
    def name(self) -> str:
        return f"{self.net}-{'half' if self.dtype == 'float16' else self.of}"


_BOTH = ("mlp", "cnn", "residual", "depthwise", "unet", "lstm", "gru", "block")
GRADIENTS = [
    *(Gradient(net, of) for net in _BOTH for of in ("inputs", "all")),
    Gradient("gpt", "inputs", "embedded"),
    *(Gradient(net, "all") for net in ("gpt", "loop", "if", "gnn", "loss")),
    Gradient("mlp", "jacobian"),
    Gradient("mlp", "hvp"),
    Gradient("cnn", "inputs", dtype="float16"),
]
TARGETS = ("cpu", "portable")
