"""Fine-tunes a real net that exists as an ONNX file only: `python -m models.finetune`.

The net is the classifier of PP-OCR, in the package rapidocr-onnxruntime, which tells whether a line
of text stands on its head. Here it learns something else: what a line consists of, digits,
capitals, small letters or signs. The last layer gets a column for each of these classes; all
weights are trained, on lines that Pillow renders. The net keeps its opset, its names and its nodes.
"""

from __future__ import annotations

import argparse
import importlib.util
import string
from pathlib import Path

import numpy as np
import onnx_ir as ir
from PIL import Image, ImageDraw, ImageFont

import onnxgrad as og

CLASSES = {
    "digits": string.digits,
    "capitals": string.ascii_uppercase,
    "small letters": string.ascii_lowercase,
    "signs": "!?%&/()=+*#@<>[]{};:",
}
HEIGHT, WIDTH = 48, 192
SEED = 0
LOGITS, WEIGHT, BIAS = "linear_1.tmp_1", "fc_0.w_0", "fc_0.b_0"

Arrays = tuple[np.ndarray, np.ndarray]


def pretrained() -> Path:
    """The file of the classifier; the package is not imported."""
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    assert spec is not None and spec.submodule_search_locations, "make real-models"
    (folder,) = spec.submodule_search_locations
    return Path(folder) / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"


def with_new_classes(rng: np.random.Generator) -> ir.Model:
    """The classifier with a last layer of as many columns as there are classes, drawn at random."""
    net = ir.load(pretrained())
    number = len(CLASSES)
    for node in net.graph:
        (value,) = node.outputs
        if value.name in (WEIGHT, BIAS):
            old = node.attributes["value"].as_tensor().numpy()
            drawn = rng.standard_normal((*old.shape[:-1], number)) / np.sqrt(old.shape[0])
            new = drawn if value.name == WEIGHT else np.zeros(number)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(new.astype(np.float32)))
    net.graph.outputs[0].shape = ir.Shape([None, number])
    return net


def line(rng: np.random.Generator, characters: str) -> np.ndarray:
    """A line of text as the net takes it: ink and paper of any grey, somewhat tilted and noisy."""
    text = "".join(rng.choice(list(characters), rng.integers(3, 9)))
    paper, ink = (180 + rng.integers(75), rng.integers(90))
    if rng.random() < 0.3:
        paper, ink = ink, paper
    image = Image.new("L", (WIDTH, HEIGHT), int(paper))
    font = ImageFont.load_default(int(rng.integers(20, 36)))
    place = (int(rng.integers(2, 30)), int(rng.integers(0, 12)))
    ImageDraw.Draw(image).text(place, text, fill=int(ink), font=font)
    image = image.rotate(float(rng.uniform(-4, 4)), Image.Resampling.BILINEAR, fillcolor=int(paper))
    pixels = np.asarray(image, np.float32) + rng.normal(0, 6, (HEIGHT, WIDTH))
    return np.broadcast_to((pixels / 255 - 0.5) / 0.5, (3, HEIGHT, WIDTH))


def lines(rng: np.random.Generator, number: int) -> Arrays:
    """Images and their classes."""
    labels = np.arange(number) % len(CLASSES)
    characters = list(CLASSES.values())
    return np.stack([line(rng, characters[k]) for k in labels]).astype(np.float32), labels


def finetune(number: int, epochs: int, others: int = 400) -> tuple[og.train.Trainer, Arrays]:
    """The trainer, once it is done, and the lines that were held back.

    Args:
        number: How many lines to train on.
        epochs: How often.
        others: How many to hold back.
    """
    rng = np.random.default_rng(SEED)
    net, data, held_back = with_new_classes(rng), lines(rng, number), lines(rng, others)
    trainer = og.train.Trainer(
        net,
        og.losses.cross_entropy(LOGITS),
        og.train.AdamW(),
        metrics={"accuracy": og.train.accuracy(LOGITS)},
    )
    steps = epochs * trainer.steps_of(data)
    print(f"held back, before: {trainer.evaluate(held_back)['accuracy']:.2%}")
    trainer.fit(data, epochs, schedule=og.train.schedules.one_cycle(3e-3, steps))
    print(f"held back, after {steps} steps: {trainer.evaluate(held_back)['accuracy']:.2%}")
    return trainer, held_back


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fine-tune PP-OCR's classifier of lines.")
    parser.add_argument("--lines", type=int, default=1600, help="lines to train on")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, help="where to write the net")
    given = parser.parse_args()
    tuned, _ = finetune(given.lines, given.epochs)
    if given.output:
        tuned.save(given.output)
