"""A net that is a picture, and its derivatives

A small net of sines learns how bright a photo is at each place (Sitzmann et al. 2020). Its exact
gradient then shows the edges of the photo, its Laplacian their outlines: it was taught neither.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx
from PIL import Image

import onnxgrad as og

EPOCHS = 300  # small: 1
SIZE = 128  # small: 32
net = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
siren (float[N, 2] place) => (float[N, 1] grey) {
    a1 = MatMul(place, w1)  b1 = Add(a1, p1)  h1 = Sin(b1)
    a2 = MatMul(h1, w2)  b2 = Add(a2, p2)  h2 = Sin(b2)
    a3 = MatMul(h2, w3)  b3 = Add(a3, p3)  h3 = Sin(b3)  grey = MatMul(h3, w4) }""")
shapes = {"w1": (2, 128), "w2": (128, 128), "w3": (128, 128), "w4": (128, 1)}
for name, shape in (shapes | dict.fromkeys(("p1", "p2", "p3"), (128,))).items():
    bound = 15 if name == "w1" else 0.22 if name[0] == "w" else 1
    w = np.random.default_rng(0).uniform(-bound, bound, shape).astype("f")
    net.graph.initializer.append(onnx.numpy_helper.from_array(w, name))

photo = Image.open("models/cat.jpg").convert("L").resize((SIZE, SIZE))
grey, line = np.asarray(photo, "f").reshape(-1, 1) / 127.5 - 1, np.linspace(-1, 1, SIZE, dtype="f")
places = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
trainer = og.train.Trainer(net, og.losses.mse("grey"), og.train.Adam(lr=5e-4))
trainer.fit((places, grey), EPOCHS, batch_size=1024)
net = og.Net(trainer.export())
slope, bend = net.gradient(places), net.hessian(places, batched=True)
maps = [net(places), np.linalg.norm(slope, axis=1), np.trace(bend, axis1=1, axis2=2)]
for k, values in enumerate(maps):
    plt.subplot(1, 3, k + 1, title=["what it learnt", "its gradient", "its Laplacian"][k])
    plt.imshow(np.clip(values, *np.percentile(values, [1, 99])).reshape(SIZE, SIZE), cmap="gray")
    plt.axis("off")
plt.savefig("paint.png")
