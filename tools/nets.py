"""The nets of the benchmark, authored in the standard's operators with random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor

Size = int | str


class Net:
    """A graph under construction, with weights by name."""

    def __init__(self, name: str) -> None:
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": 21}, name=name)
        self.op = Builder(self.graph)
        self.op.scope = "net"
        self.rng = np.random.default_rng(0)
        self.weights: list[str] = []

    def input(self, name: str, shape: list[Size], dtype: ir.DataType = ir.DataType.FLOAT) -> Tensor:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.graph.inputs.append(value)
        return self.op.tensor(value)

    def weight(self, name: str, *shape: int, scale: float | None = None, add: float = 0) -> Tensor:
        fan_in = math.prod(shape[1:]) if len(shape) > 2 else shape[0]
        scale = scale if scale is not None else math.sqrt(2 / fan_in)
        self.weights.append(name)
        array = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        return self.array(name, array + np.float32(add))

    def array(self, name: str, array: np.ndarray) -> Tensor:
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.tensor(array, name=name),
        )
        self.graph.register_initializer(value)
        return self.op.tensor(value)

    def model(self, **outputs: Tensor) -> ir.Model:
        for name, t in outputs.items():
            t.value.name = name
            self.graph.outputs.append(t.value)
        # What there is to learn, apart from masks and other constants.
        metadata = {"weights": json.dumps(self.weights)}
        return ir.Model(self.graph, ir_version=10, metadata_props=metadata)

    # -- layers --------------------------------------------------------------------------------

    def conv(
        self, name: str, x: Tensor, channels: int, k: int, stride: int = 1, group: int = 1
    ) -> Tensor:
        """A convolution with bias, as exporters write one that a BatchNormalization went into."""
        w = self.weight(f"{name}.weight", channels, int(x.shape[1]) // group, k, k)
        b = self.weight(f"{name}.bias", channels, scale=0.01)
        pad = [k // 2] * 4
        return self.op.Conv(
            x, w, b, kernel_shape=[k, k], strides=[stride] * 2, pads=pad, group=group
        )

    def linear(self, name: str, x: Tensor, width: int, bias: bool = True) -> Tensor:
        y = self.op.MatMul(x, self.weight(f"{name}.weight", int(x.shape[-1]), width, scale=0.02))
        return y + self.weight(f"{name}.bias", width, scale=0.01) if bias else y

    def norm(self, name: str, x: Tensor) -> Tensor:
        width = int(x.shape[-1])
        scale = self.weight(f"{name}.weight", width, scale=0.01, add=1)
        return self.op.LayerNormalization(
            x, scale, self.weight(f"{name}.bias", width, scale=0.01), axis=-1, epsilon=1e-5
        )

    def gelu(self, x: Tensor) -> Tensor:
        return x * (self.op.Erf(x * (1 / math.sqrt(2))) + 1) * 0.5

    def attention(
        self, name: str, x: Tensor, heads: int, sizes: tuple[Size, int], mask: Tensor | None = None
    ) -> Tensor:
        op, width = self.op, int(x.shape[-1])
        split = op.const([0, 0, heads, width // heads])
        q, k, v = (self.linear(f"{name}.{part}", x, width) for part in ("q", "k", "v"))
        q, v = (op.Transpose(op.Reshape(t, split), perm=[0, 2, 1, 3]) for t in (q, v))
        k = op.Transpose(op.Reshape(k, split), perm=[0, 2, 3, 1])
        scores = op.MatMul(q, k) * (1 / math.sqrt(width // heads))
        p = op.Softmax(scores if mask is None else scores + mask, axis=-1)
        y = op.Transpose(op.MatMul(p, v), perm=[0, 2, 1, 3])
        return self.linear(f"{name}.out", op.Reshape(y, op.const([0, 0, width])), width)

    def block(self, name: str, x: Tensor, heads: int, sizes: tuple[Size, int]) -> Tensor:
        """A transformer block that normalises after each part, as BERT does."""
        width = int(x.shape[-1])
        x = self.norm(f"{name}.norm1", x + self.attention(f"{name}.attention", x, heads, sizes))
        h = self.gelu(self.linear(f"{name}.up", x, 4 * width))
        return self.norm(f"{name}.norm2", x + self.linear(f"{name}.down", h, width))


def resnet50(batch: Size = 1, size: int = 224) -> ir.Model:
    """ResNet-50: image [batch, 3, size, size] -> logits [batch, 1000]."""
    net = Net("resnet50")
    op = net.op
    x = op.Relu(net.conv("stem", net.input("image", [batch, 3, size, size]), 64, 7, 2))
    x = op.MaxPool(x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            y = op.Relu(net.conv(f"{name}.conv1", x, width, 1))
            y = op.Relu(net.conv(f"{name}.conv2", y, width, 3, stride))
            y = net.conv(f"{name}.conv3", y, 4 * width, 1)
            if not block:
                x = net.conv(f"{name}.downsample", x, 4 * width, 1, stride)
            x = op.Relu(x + y)
    x = op.Flatten(op.GlobalAveragePool(x))
    w = net.weight("fc.weight", 1000, 2048, scale=0.02)
    return net.model(logits=op.Gemm(x, w, net.weight("fc.bias", 1000, scale=0.01), transB=1))


def mobilenet_v2(batch: Size = 1, size: int = 224) -> ir.Model:
    """MobileNetV2: image [batch, 3, size, size] -> logits [batch, 1000]."""
    net = Net("mobilenet_v2")
    op = net.op

    def relu6(x: Tensor) -> Tensor:
        return op.Clip(x, op.const(0, like=x), op.const(6, like=x))

    x = relu6(net.conv("stem", net.input("image", [batch, 3, size, size]), 32, 3, 2))
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1)]  # fmt: skip
    for stage, (expand, channels, blocks, first) in enumerate(plan):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 1 if block else first
            inner = int(x.shape[1]) * expand
            y = x if expand == 1 else relu6(net.conv(f"{name}.expand", x, inner, 1))
            y = relu6(net.conv(f"{name}.depthwise", y, inner, 3, stride, group=inner))
            y = net.conv(f"{name}.project", y, channels, 1)
            x = x + y if stride == 1 and int(x.shape[1]) == channels else y
    x = op.Flatten(op.GlobalAveragePool(relu6(net.conv("head", x, 1280, 1))))
    w = net.weight("fc.weight", 1000, 1280, scale=0.02)
    return net.model(logits=op.Gemm(x, w, net.weight("fc.bias", 1000, scale=0.01), transB=1))


def bert(
    batch: Size = 1, tokens: Size = 128, layers: int = 12, width: int = 768, classes: int = 0
) -> ir.Model:
    """BERT-base behind its embedding: [batch, tokens, width] -> the same, or scores of classes."""
    net = Net("bert")
    x = net.input("embedded", [batch, tokens, width])
    x = net.norm("norm", x)
    for layer in range(layers):
        x = net.block(f"layer{layer}", x, width // 64, (tokens, width))
        x.value.name = f"layer{layer}"
    if not classes:
        return net.model(hidden=x)
    first = net.op.Gather(x, net.op.const(0), axis=1)
    return net.model(logits=net.linear("classifier", first, classes))


def gpt2(batch: Size = 1, tokens: int = 128, layers: int = 12, width: int = 768) -> ir.Model:
    """A language model like GPT-2 small: ids and targets [batch, tokens] -> its loss []."""
    net = Net("gpt2")
    op, vocabulary = net.op, 8192
    ids = net.input("ids", [batch, tokens], ir.DataType.INT64)
    targets = net.input("targets", [batch, tokens], ir.DataType.INT64)
    x = op.Gather(net.weight("wte", vocabulary, width, scale=0.02), ids, axis=0)
    x = x + net.weight("wpe", tokens, width, scale=0.02)
    mask = net.array("mask", np.triu(np.full((tokens, tokens), -1e4, np.float32), 1))
    for layer in range(layers):
        name = f"layer{layer}"
        h = net.norm(f"{name}.norm1", x)
        x = x + net.attention(f"{name}.attention", h, width // 64, (tokens, width), mask)
        h = net.linear(f"{name}.up", net.norm(f"{name}.norm2", x), 4 * width)
        x = x + net.linear(f"{name}.down", net.gelu(h), width)
    logits = net.linear("head", net.norm("norm", x), vocabulary, bias=False)
    flat = op.Reshape(logits, op.const([-1, vocabulary]))
    loss = op.SoftmaxCrossEntropyLoss(flat, op.Reshape(targets, op.const([-1])), reduction="mean")
    return net.model(loss=loss)


def unet(batch: Size = 1, size: int = 128) -> ir.Model:
    """A U-Net of four levels: image [batch, 3, size, size] -> mask [batch, 1, size, size]."""
    net = Net("unet")
    op = net.op

    def double(name: str, x: Tensor, channels: int) -> Tensor:
        x = op.Relu(net.conv(f"{name}.0", x, channels, 3))
        return op.Relu(net.conv(f"{name}.1", x, channels, 3))

    x, skips = net.input("image", [batch, 3, size, size]), []
    for level, channels in enumerate([32, 64, 128, 256]):
        x = double(f"down{level}", x, channels)
        if level < 3:
            skips.append(x)
            x = op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])
    for level, channels in enumerate([128, 64, 32]):
        w = net.weight(f"up{level}.weight", 2 * channels, channels, 2, 2)
        b = net.weight(f"up{level}.bias", channels, scale=0.01)
        x = op.ConvTranspose(x, w, b, kernel_shape=[2, 2], strides=[2, 2])
        x = double(f"join{level}", op.Concat(skips.pop(), x, axis=1), channels)
    return net.model(mask=op.Sigmoid(net.conv("out", x, 1, 1)))


def lstm(batch: int = 1, steps: Size = 256, width: int = 64, hidden: int = 128) -> ir.Model:
    """A bidirectional LSTM and a linear layer: [steps, batch, width] -> [steps, batch, 10]."""
    net = Net("lstm")
    op = net.op
    x = net.input("x", [steps, batch, width])
    y, _, _ = op.LSTM(
        x,
        net.weight("lstm.W", 2, 4 * hidden, width, scale=0.1),
        net.weight("lstm.R", 2, 4 * hidden, hidden, scale=0.1),
        net.weight("lstm.B", 2, 8 * hidden, scale=0.1),
        hidden_size=hidden,
        direction="bidirectional",
        outputs=3,
    )
    y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), op.const([0, 0, 2 * hidden]))
    return net.model(y=net.linear("fc", y, 10))


def recurrent(
    operator: str, gates: int, width: int, direction: str = "forward", **attributes: int
) -> ir.Model:
    """One RNN, GRU or LSTM of so many gates, as many units as inputs; steps and batch symbolic."""
    net = Net(operator)
    directions, rows = 1 + (direction == "bidirectional"), gates * width
    weights = [
        net.weight("W", directions, rows, width, scale=0.1),
        net.weight("R", directions, rows, width, scale=0.1),
        net.weight("B", directions, 2 * rows, scale=0.1),
    ]
    x = net.input("x", ["steps", "batch", width])
    options = {"hidden_size": width, "direction": direction, **attributes}
    return net.model(y=net.op.node(operator, [x, *weights], attributes=options)[0])


def mlp(batch: Size = 1, width: int = 256) -> ir.Model:
    """A perceptron of three layers: [batch, 64] -> [batch, 10]."""
    net = Net("mlp")
    x = net.op.Relu(net.linear("fc1", net.input("x", [batch, 64]), width))
    x = net.op.Relu(net.linear("fc2", x, width))
    return net.model(y=net.linear("fc3", x, 10))


def chain(nodes: int) -> ir.Model:
    """A chain of element-wise nodes, to see that building is linear."""
    net = Net("chain")
    x = net.input("x", ["N", 4])
    for k in range(nodes // 2):
        x = net.op.Tanh(x * (1 + k / nodes))
    return net.model(y=x)


NETS: dict[str, Callable[..., ir.Model]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "bert": bert,
    "gpt2": gpt2,
    "unet": unet,
    "lstm": lstm,
    "mlp": mlp,
}
