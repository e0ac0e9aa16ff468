"""Adapts a decoder whose weights have 4 bits (QLoRA): `python -m models.lora`.

A decoder learns to count up, by steps that it has to see in the text. Its weights are rounded to
4 bits, and an adapter learns to count down. Of both tasks a quarter of the texts is held back.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

import onnxgrad as og
from models.decoder import Decoder, feeds_of
from onnxgrad import train

VOCABULARY = 32
LENGTH = 8
SEEN = 2  # tokens that tell the step

Arrays = dict[str, np.ndarray]


def texts(steps: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers that go round, from every start by every step: those to train on, and held back."""
    starts = np.arange(VOCABULARY)
    every = [starts[:, None] + step * np.arange(LENGTH + 1) for step in steps]
    found = np.random.default_rng(0).permutation(np.concatenate(every) % VOCABULARY)
    held_back = len(found) // 4
    return found[held_back:], found[:held_back]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # that A and B can be replaced is on purpose
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def accuracy(model: onnx.ModelProto, text: np.ndarray, adapter: Path | None = None) -> float:
    """How many of the tokens behind the first ones are told."""
    options = onnxruntime.RunOptions()
    if adapter is not None:
        active = onnxruntime.LoraAdapter()
        active.Load(str(adapter))
        options.add_active_adapter(active)
    (logits,) = session(model).run(["logits"], feeds_of(model, text[:, :-1]), options)
    right = logits.argmax(axis=-1) == text[:, 1:]
    return float(right[:, SEEN - 1 :].mean())


def trained(
    model: onnx.ModelProto, wrt: list[str] | None, text: np.ndarray, steps: int, rate: float
) -> Arrays:
    """The weights after some steps on all of a text."""
    step = train.step(model, og.losses.cross_entropy("scores"), train.Adam(), wrt)
    state = json.loads({p.key: p.value for p in step.metadata_props}["onnxgrad.state"])
    labels = text[:, 1:].copy()
    labels[:, : SEEN - 1] = -100  # no label
    feeds = {**feeds_of(model, text[:, :-1]), "labels": labels}
    first = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    running = session(step)
    for port in running.get_inputs():
        if port.name in state:
            dtype = np.int64 if port.name == "step" else np.float32
            feeds[port.name] = first.get(port.name, np.zeros(port.shape, dtype))
    names = [port.name for port in running.get_outputs()]
    feeds = {port.name: feeds.get(port.name) for port in running.get_inputs()}
    for k in range(steps):
        feeds["learning_rate"] = np.array(rate * (1 - k / steps), np.float32)
        found = dict(zip(names, running.run(None, feeds), strict=True))
        feeds.update({name: found[following] for name, following in state.items()})
    return {name: feeds[name] for name in state}


def main(steps: int, adapter: Path) -> tuple[float, float, float]:
    """The accuracy of the base on its task, and on the new one without and with the adapter."""
    known, new = texts((1, 2, 3)), texts((-1, -2, -3))
    drawn = Decoder(vocabulary=VOCABULARY, bits=32).model()
    weights = [t.name for t in drawn.graph.initializer if t.name.endswith((".weight", "embed"))]
    base = Decoder(
        vocabulary=VOCABULARY, weights=trained(drawn, weights, known[0], steps, 3e-3)
    ).model()
    tuned = train.lora(base, 8, 16)
    state = trained(tuned, None, new[0], steps, 1e-2)
    train.save_adapter(tuned, adapter, state)
    found = accuracy(base, known[1]), accuracy(tuned, new[1]), accuracy(tuned, new[1], adapter)
    print(f"counting up, weights of 4 bits: {found[0]:.1%} of the held-back tokens")
    print(f"counting down, without the adapter: {found[1]:.1%}, with it: {found[2]:.1%}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--adapter", type=Path, default=Path("down.onnx_adapter"))
    given = parser.parse_args()
    main(given.steps, given.adapter)
