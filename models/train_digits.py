"""Trains digits.onnx with onnxgrad itself: `python -m models.train_digits`.

The loss net takes its weights as inputs, as they change with every step. `og.gradient` adds their
gradients, plain onnxruntime runs it, and the update (Adam) is the few lines of numpy below.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnxscript import OpBuilder
from sklearn.datasets import load_digits

import onnxgrad as og
from models.author import FOLDER, Conv, Linear, Net, build

SEED = 0
EPOCHS = 40
BATCH = 64
RATE = 3e-3
SAMPLE = 38  # of the held-back digits, the one that goes into digit.npy

Arrays = dict[str, np.ndarray]


class Digits(Net):
    """Reads a handwritten digit: 8x8 pixels from 0 (paper) to 1 (ink) in, ten logits out."""

    inputs: ClassVar = {"image": ["N", 1, 8, 8]}
    outputs: ClassVar = {"logits": ["N", 10]}

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.conv1 = Conv(rng, 1, 16)
        self.conv2 = Conv(rng, 16, 32)
        self.conv3 = Conv(rng, 32, 32)
        self.fc = Linear(rng, 32 * 2 * 2, 10)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = op.Relu(self.conv1(op, x))
        x = op.Relu(self.conv2(op, x))
        x = op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])
        x = op.Relu(self.conv3(op, x))
        x = op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2])
        return self.fc(op, op.Flatten(x, axis=1))


def split() -> tuple[Arrays, Arrays]:
    """The images and labels to train on, and those held back: every fifth digit of the set."""
    data = load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    labels = data.target.astype(np.int64)
    held_back = np.arange(len(labels)) % 5 == 0
    return (
        {"image": images[~held_back], "label": labels[~held_back]},
        {"image": images[held_back], "label": labels[held_back]},
    )


def loss_model(net: ir.Model) -> ir.Model:
    """The mean cross-entropy of the net as a function of image, label and weights."""
    model = net.clone()
    graph = model.graph
    (logits,) = graph.outputs
    label = ir.val("label", ir.DataType.INT64, ["N"])
    node = ir.node("SoftmaxCrossEntropyLoss", [logits, label], {"reduction": "mean"})
    (loss,) = node.outputs
    loss.name, loss.dtype, loss.shape = "loss", ir.DataType.FLOAT, ir.Shape([])
    graph.append(node)
    graph.inputs.extend([label, *graph.initializers.values()])
    graph.initializers.clear()
    graph.outputs[:] = [loss]
    return model


def shifted(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Each image moved by up to one pixel, in fractions of a pixel, along both axes."""
    for axis in (2, 3):
        by = rng.uniform(-1, 1, (len(images), 1, 1, 1)).astype(np.float32)
        pad = [(0, 0)] * 4
        pad[axis] = (1, 1)
        padded = np.pad(images, pad)
        before, here, after = (
            np.take(padded, range(start, start + 8), axis=axis) for start in range(3)
        )
        images = np.where(by < 0, here + by * (here - after), here + by * (before - here))
    return images


class Adam:
    """Kingma and Ba's Adam, with a rate that the caller may change from step to step."""

    def __init__(self, weights: Arrays) -> None:
        self.weights = weights
        self.mean = {name: np.zeros_like(w) for name, w in weights.items()}
        self.square = {name: np.zeros_like(w) for name, w in weights.items()}
        self.steps = 0

    def step(self, gradients: Arrays, rate: float) -> None:
        self.steps += 1
        rate *= math.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        for name, g in gradients.items():
            self.mean[name] = 0.9 * self.mean[name] + 0.1 * g
            self.square[name] = 0.999 * self.square[name] + 0.001 * g * g
            step = rate * self.mean[name] / (np.sqrt(self.square[name]) + 1e-8)
            self.weights[name] = self.weights[name] - np.float32(step)


class Trainer:
    """Holds the weights, and the session that computes the loss and its gradients."""

    def __init__(self, net: ir.Model) -> None:
        initializers = net.graph.initializers
        self.weights: Arrays = {n: v.const_value.numpy() for n, v in initializers.items()}
        model = ir.to_proto(og.gradient(loss_model(net), wrt=list(self.weights)))
        names = json.loads({p.key: p.value for p in model.metadata_props}["onnxgrad.gradients"])
        self.session = onnxruntime.InferenceSession(model.SerializeToString())
        self.outputs = ["loss", *(names[n] for n in self.weights)]
        self.adam = Adam(self.weights)

    def step(self, batch: Arrays, rate: float) -> float:
        """One update of the weights; the loss before it."""
        loss, *gradients = self.session.run(self.outputs, {**batch, **self.weights})
        self.adam.step(dict(zip(self.weights, gradients, strict=True)), rate)
        return float(loss)


def batches(rng: np.random.Generator, digits: Arrays) -> Iterator[Arrays]:
    order = rng.permutation(len(digits["label"]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        yield {
            "image": shifted(rng, digits["image"][chosen]),
            "label": digits["label"][chosen],
        }


def accuracy(model: onnx.ModelProto, digits: Arrays) -> float:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (logits,) = session.run(["logits"], {"image": digits["image"]})
    return float(np.mean(logits.argmax(axis=1) == digits["label"]))


def train(epochs: int = EPOCHS) -> ir.Model:
    rng = np.random.default_rng(SEED)
    digits, held_back = split()
    net = build(Digits(rng), "digits")
    trainer = Trainer(net)
    for epoch in range(epochs):
        rate = RATE * (1 + math.cos(math.pi * epoch / epochs)) / 2
        loss = np.mean([trainer.step(batch, rate) for batch in batches(rng, digits)])
        print(f"epoch {epoch + 1:2d}  loss {loss:.4f}")
    for name, weight in trainer.weights.items():
        net.graph.initializers[name].const_value = ir.tensor(weight)
    right = accuracy(ir.to_proto(net), held_back)
    net.metadata_props["accuracy"] = f"{right:.4f} of {len(held_back['label'])} held-back digits"
    net.metadata_props["data"] = "scikit-learn's load_digits; every fifth digit held back, from 0"
    net.metadata_props["trained_by"] = "models/train_digits.py, with gradients of onnxgrad"
    return net


if __name__ == "__main__":
    model = train()
    ir.save(model, FOLDER / "digits.onnx")
    np.save(FOLDER / "digit.npy", split()[1]["image"][SAMPLE : SAMPLE + 1])
    print(f"{FOLDER / 'digits.onnx'}: accuracy {model.metadata_props['accuracy']}")
