"""One digit, read as all ten

A handwritten 3, and what a targeted attack in L2 changes of it for each of the ten digits. Above it
stands what the net reads; blue is ink that was added, red ink that was taken away.
"""

import matplotlib.pyplot as plt
import numpy as np

import onnxgrad as og

digit, net = np.load("models/digit.npy"), og.Net("models/digits.onnx")
bounds = {"norm": "L2", "eps": 1.6, "clip_min": 0, "clip_max": 1}
attack = og.Net(og.adversarial.pgd("models/digits.onnx", **bounds, steps=40, targeted=True))
found = attack({"image": digit.repeat(10, 0), "labels": np.arange(10)})["image_adv"]
read = net(found).argmax(axis=1)

_, axes = plt.subplots(2, 10, figsize=(8, 2))
for k in range(10):
    axes[0, k].imshow(found[k, 0], cmap="gray_r", vmin=0, vmax=1)
    axes[0, k].set_title(read[k], color="#2a9d8f" if read[k] == k else "#e4572e")
    axes[1, k].imshow((found - digit)[k, 0], cmap="RdBu", vmin=-0.7, vmax=0.7)
for axis in axes.flat:
    axis.axis("off")
plt.savefig("ten_digits.png")
