"""A cat that is a toaster

A targeted attack: each pixel moves by three levels of 255 at most, against the gradient of the loss
for "toaster". In the middle is what was added, twenty times as strong as it is.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import onnxgrad as og

PATH, LEVEL = "models/efficientnet_lite0.onnx", 1 / 128
names = Path("models/imagenet_classes.txt").read_text().splitlines()
net = og.Net(PATH)
x = og.explain.image("models/cat.jpg", net, mean=127, std=128)
bounds = {"eps": 3 * LEVEL, "clip_min": -127 * LEVEL, "clip_max": 1}
attack = og.Net(og.adversarial.pgd(PATH, **bounds, steps=20, targeted=True))
attacked = attack({"image": x, "labels": np.array([names.index("toaster")])})["image_adv"]


def name(x):
    logits = net(x)[0]
    chance = np.exp(logits.max() - np.logaddexp.reduce(logits))
    return f"{names[logits.argmax()]}: {chance:.0%}"


_, axes = plt.subplots(1, 3, figsize=(7.2, 2.1))
shown = {name(x): x, "what was added": 20 * (attacked - x), name(attacked): attacked}
for axis, (title, picture) in zip(axes, shown.items(), strict=True):
    axis.imshow(np.clip(picture[0].transpose(1, 2, 0) / 2 + 0.5, 0, 1), aspect=2 / 3)
    axis.set_title(title)
    axis.axis("off")
plt.savefig("adversarial_cat.png")
