"""Which words made it say so

A net with attention has learnt from made-up reviews. Integrated gradients of its embeddings tell
what each word counts, for praise (blue) or against it (red): after "not", even "great" is red.
"""

import matplotlib.pyplot as plt
import numpy as np
import onnx

import onnxgrad as og

EPOCHS = 20  # small: 1
model = onnx.parser.parse_model("""
<ir_version: 10, opset_import: ["" : 21]>
reviews (int64[N, 6] tokens) => (float[N, 1] score) <int64[1] one = {1}> {
    e = Gather(table, tokens)  h = Add(e, places)  q = MatMul(h, wq)  k = MatMul(h, wk)
    v = MatMul(h, wv)  kt = Transpose<perm = [0, 2, 1]>(k)  s = MatMul(q, kt)  a = Softmax(s)
    seen = MatMul(a, v)  both = Add(h, seen)  up = MatMul(both, w1)  act = Gelu(up)
    sum = ReduceSum<keepdims = 0>(act, one)  score = MatMul(sum, w2) }""")
rng, shapes = np.random.default_rng(0), dict.fromkeys(("wq", "wk", "wv"), (16, 16))
shapes |= {"table": (19, 16), "places": (6, 16), "w1": (16, 32), "w2": (32, 1)}
for name, n in shapes.items():
    w = rng.normal(0, 0.25, n).astype("f")
    model.graph.initializer.append(onnx.numpy_helper.from_array(w, name))
words = "_ a the film plot cast song was felt not never very really good great fine bad dull awful"
lists = [range(1, 3), range(3, 7), range(7, 9), range(9, 13), range(11, 13), range(13, 19)]
tokens = np.stack([rng.choice(those, 5000) for those in lists], -1)
good = (tokens[:, 5] < 16) ^ (tokens[:, 3] < 11)
shown = tokens[:6].copy()
tokens[rng.random(tokens.shape) < 0.3] = 0  # so that "_" means nothing, and is a good baseline
trainer = og.train.Trainer(model, og.losses.bce_with_logits("score"), og.train.Adam(lr=3e-3))
trainer.fit((tokens, good[:, None].astype("f")), EPOCHS)
explain = og.explain.layer_integrated_gradients(trainer.export(), "e", baselines=0, target=None)
score, counts = og.Net(explain)(shown).values()
plt.imshow(counts.sum(axis=-1), cmap="RdBu", vmin=-6, vmax=6, aspect="auto")
for (y, x), k in np.ndenumerate(shown):
    plt.text(x, y, words.split()[k], ha="center", va="center", size=13)
plt.axis("off")
plt.savefig("words.png")
