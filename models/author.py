"""Authors the small nets of this folder with onnxscript: `python -m models.author` writes all.

Every net is a `Net`, a module that declares its inputs and outputs; `build` makes a model of it.
Weights are drawn from a seed, so a second run writes the same nets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder, OpBuilder, nn

FOLDER = Path(__file__).parent
OPSET = 21
IR_VERSION = 10

Shape = Sequence[int | str]


class Net(nn.Module):
    """A whole net: a module with named inputs and outputs, all of them float32."""

    inputs: ClassVar[dict[str, Shape]]
    outputs: ClassVar[dict[str, Shape]]


def parameter(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(values.shape, data=ir.tensor(values.astype(np.float32)))


def build(net: Net, name: str) -> ir.Model:
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name=name)
    builder = GraphBuilder(graph)
    inputs = [builder.input(n, ir.DataType.FLOAT, shape) for n, shape in net.inputs.items()]
    results = net(builder.op, *inputs)
    results = [results] if isinstance(results, ir.Value) else results
    for value, (output, shape) in zip(results, net.outputs.items(), strict=True):
        value.shape = ir.Shape(shape)
        builder.add_output(value, output)
    for node in graph:
        node.metadata_props.clear()  # onnxscript's notes on scopes, which the names tell already
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="onnxgrad", doc_string=net.__doc__)


class Linear(nn.Module):
    """A fully connected layer over the last axis of a matrix, its weight stored as [out, in]."""

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = parameter(rng.normal(0, 1 / math.sqrt(inputs), (outputs, inputs)))
        self.bias = parameter(rng.normal(0, 0.1, outputs))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.Gemm(x, self.weight, self.bias, transB=1)


class Projection(nn.Module):
    """A linear map over the last axis of any tensor, its weight stored as [in, out]."""

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = parameter(rng.normal(0, 1 / math.sqrt(inputs), (inputs, outputs)))
        self.bias = parameter(rng.normal(0, 0.1, outputs))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.Add(op.MatMul(x, self.weight), self.bias)


class Conv(nn.Module):
    """A 3x3 convolution that keeps the size of the image."""

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = parameter(rng.normal(0, math.sqrt(2 / (inputs * 9)), (outputs, inputs, 3, 3)))
        self.bias = parameter(np.zeros(outputs))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.Conv(x, self.weight, self.bias, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


class BatchNorm(nn.Module):
    def __init__(self, rng: np.random.Generator, channels: int) -> None:
        super().__init__()
        self.weight = parameter(rng.uniform(0.5, 1.5, channels))
        self.bias = parameter(rng.normal(0, 0.1, channels))
        self.running_mean = parameter(rng.normal(0, 0.1, channels))
        self.running_var = parameter(rng.uniform(0.5, 1.5, channels))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.BatchNormalization(
            x, self.weight, self.bias, self.running_mean, self.running_var, epsilon=1e-5
        )


class LayerNorm(nn.Module):
    def __init__(self, rng: np.random.Generator, width: int) -> None:
        super().__init__()
        self.weight = parameter(rng.uniform(0.5, 1.5, width))
        self.bias = parameter(rng.normal(0, 0.1, width))

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.LayerNormalization(x, self.weight, self.bias, axis=-1, epsilon=1e-5)


class Mlp(Net):
    """A multi-layer perceptron: four numbers in, the logits of three classes out."""

    inputs: ClassVar = {"input": ["N", 4]}
    outputs: ClassVar = {"logits": ["N", 3]}

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.fc1 = Linear(rng, 4, 16)
        self.fc2 = Linear(rng, 16, 16)
        self.fc3 = Linear(rng, 16, 3)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = op.Tanh(self.fc1(op, x))
        x = op.Relu(self.fc2(op, x))
        return self.fc3(op, x)


class ResidualBlock(nn.Module):
    def __init__(self, rng: np.random.Generator, channels: int) -> None:
        super().__init__()
        self.conv = Conv(rng, channels, channels)
        self.bn = BatchNorm(rng, channels)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.Relu(op.Add(x, self.bn(op, self.conv(op, x))))


class Cnn(Net):
    """A small residual net: a 16x16 picture of three channels in, the logits of ten classes out."""

    inputs: ClassVar = {"input": ["N", 3, 16, 16]}
    outputs: ClassVar = {"logits": ["N", 10]}

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.conv1 = Conv(rng, 3, 8)
        self.bn1 = BatchNorm(rng, 8)
        self.layer1 = nn.Sequential(ResidualBlock(rng, 8), ResidualBlock(rng, 8))
        self.fc = Linear(rng, 8, 10)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = op.Relu(self.bn1(op, self.conv1(op, x)))
        x = op.MaxPool(x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        x = self.layer1(op, x)
        x = op.Flatten(op.GlobalAveragePool(x), axis=1)
        return self.fc(op, x)


class Attention(nn.Module):
    """Self-attention of several heads; the length of the sequence is known at run time only."""

    def __init__(self, rng: np.random.Generator, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.q = Projection(rng, width, width)
        self.k = Projection(rng, width, width)
        self.v = Projection(rng, width, width)
        self.out = Projection(rng, width, width)

    def split(self, op: OpBuilder, x: ir.Value, perm: Sequence[int]) -> ir.Value:
        # In a Reshape, 0 keeps the axis as it is: batch and sequence stay symbolic.
        return op.Transpose(op.Reshape(x, [0, 0, self.heads, self.head_width]), perm=perm)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        q = self.split(op, self.q(op, x), [0, 2, 1, 3])
        k = self.split(op, self.k(op, x), [0, 2, 3, 1])
        v = self.split(op, self.v(op, x), [0, 2, 1, 3])
        scores = op.Mul(op.MatMul(q, k), 1 / math.sqrt(self.head_width))
        mixed = op.MatMul(op.Softmax(scores, axis=-1), v)
        return self.out(op, op.Reshape(op.Transpose(mixed, perm=[0, 2, 1, 3]), op.Shape(x)))


class TransformerBlock(Net):
    """One pre-norm transformer block over [batch, sequence, 32]."""

    inputs: ClassVar = {"input": ["N", "S", 32]}
    outputs: ClassVar = {"output": ["N", "S", 32]}

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.norm1 = LayerNorm(rng, 32)
        self.attention = Attention(rng, 32, heads=4)
        self.norm2 = LayerNorm(rng, 32)
        self.fc1 = Projection(rng, 32, 64)
        self.fc2 = Projection(rng, 64, 32)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = op.Add(x, self.attention(op, self.norm1(op, x)))
        return op.Add(x, self.fc2(op, op.Gelu(self.fc1(op, self.norm2(op, x)))))


class BceHead(Net):
    """Binary cross-entropy between probabilities and targets, the mean over the batch."""

    inputs: ClassVar = {"input": ["N"], "target": ["N"]}
    outputs: ClassVar = {"loss": []}

    def forward(self, op: OpBuilder, p: ir.Value, target: ir.Value) -> ir.Value:
        p = op.Clip(p, 1e-6, 1 - 1e-6)  # keeps the logarithms finite
        hit = op.Mul(target, op.Log(p))
        miss = op.Mul(op.Sub(1.0, target), op.Log(op.Sub(1.0, p)))
        return op.ReduceMean(op.Neg(op.Add(hit, miss)), keepdims=0)


class TwoInTwoOut(Net):
    """Two inputs, two outputs: `mixed` depends on both inputs, `energy` on `b` alone."""

    inputs: ClassVar = {"a": ["N", 4], "b": ["N", 3]}
    outputs: ClassVar = {"mixed": ["N", 5], "energy": ["N"]}

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.left = Linear(rng, 4, 5)
        self.right = Linear(rng, 3, 5)

    def forward(self, op: OpBuilder, a: ir.Value, b: ir.Value) -> Sequence[ir.Value]:
        right = self.right(op, b)
        mixed = op.Mul(op.Tanh(self.left(op, a)), op.Sigmoid(right))
        return mixed, op.ReduceSum(op.Mul(right, right), [1], keepdims=0)


def authored() -> dict[str, ir.Model]:
    """Every net of this folder but the trained one, by the name of its file."""
    nets = {
        "mlp": Mlp(np.random.default_rng(1)),
        "cnn": Cnn(np.random.default_rng(2)),
        "transformer_block": TransformerBlock(np.random.default_rng(3)),
        "bce_head": BceHead(),
        "two_in_two_out": TwoInTwoOut(np.random.default_rng(4)),
    }
    return {name: build(net, name) for name, net in nets.items()}


if __name__ == "__main__":
    for name, model in authored().items():
        ir.save(model, FOLDER / f"{name}.onnx")
        print(FOLDER / f"{name}.onnx")
