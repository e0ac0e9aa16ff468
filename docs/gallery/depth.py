"""From edges to a face

Layer-CAM at five depths of one net: what speaks for the cat are fine lines at first, then eyes and
whiskers, at last the face. All five maps are outputs of one file.
"""

from functools import partial

import matplotlib.pyplot as plt

import onnxgrad as og

layers = ["conv_stem.relu6", "blocks.2", "blocks.6", "blocks.10", "features"]
cams = {k: partial(og.explain.layer_cam, layer=k, interpolate=True) for k in layers}
net = og.Net(og.explain.several("models/efficientnet_lite0.onnx", cams))
x = og.explain.image("models/cat.jpg", net, mean=127, std=128)
_, *maps = net(x).values()

_, axes = plt.subplots(1, len(maps), figsize=(8, 1.8))
for axis, layer, heat in zip(axes, layers, maps, strict=True):
    axis.imshow(heat[0], aspect=2 / 3)
    axis.set_title(layer, fontsize=9)
    axis.axis("off")
plt.savefig("depth.png")
