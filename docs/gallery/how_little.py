"""How little it takes

How sure the net is of the cat, against how far each pixel may move: half a level of 255, which no
screen shows, is enough for one step along the gradient's sign, and more than enough for ten.
"""

import matplotlib.pyplot as plt
import numpy as np

import onnxgrad as og

PATH = "models/efficientnet_lite0.onnx"
SIZES = np.linspace(0, 2, 17)  # small: [1.0]
net = og.Net(og.attach(PATH, og.heads.probability("logits", target=285)))
x = og.explain.image("models/cat.jpg", net, mean=127, std=128)
bounds = {"clip_min": -127 / 128, "clip_max": 1, "eps": "input"}
for title, model in {
    "FGSM, one step": og.adversarial.fgsm(PATH, **bounds),
    "PGD, ten steps": og.adversarial.pgd(PATH, **bounds),
}.items():
    attack = og.Net(model)
    sure = []
    for size in SIZES:
        feeds = {"image": x, "labels": np.array([285]), "eps": np.array(size / 128, "f")}
        moved = attack(feeds)["image_adv"]
        sure.append(net(moved)["probability"][0])
    plt.plot(SIZES, sure, "o-", label=title)
plt.xlabel("levels of 255 by which a pixel may move")
plt.ylabel("probability of an Egyptian cat")
plt.legend()
plt.savefig("how_little.png")
