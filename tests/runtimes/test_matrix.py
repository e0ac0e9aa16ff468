"""What runtimes make of 25 gradients' files is what docs/runtimes.md promises: `make runtimes`.

The right numbers of the files are held against finite differences of the nets in float64.
"""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.verify.limits import obstacles
from tools.runtimes.judge import read
from tools.runtimes.nets import GRADIENTS, NETS, SIZES, Gradient
from tools.runtimes.page import FILES, JUDGED, counted, results

pytestmark = [
    pytest.mark.skipif(
        not (FILES / "values.json").exists(), reason="there are no files yet: make runtimes"
    ),
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="make runtimes runs these"),
]
FOUND = results()
# Numbers in half precision are too coarse; that net is here in float32 too.
IN_FLOAT = [g for g in GRADIENTS if g.dtype == "float"]


@pytest.mark.parametrize("name", JUDGED)
def test_promises(name: str) -> None:
    if name not in FOUND:
        pytest.skip("it has not been measured")
    _, files = FOUND[name]
    for target, least in zip(("portable", "cpu"), JUDGED[name].least, strict=True):
        right, wrong, _ = counted(files, target)
        assert right >= least, {n: v for n, v in files.items() if v[0] != "right"}
        assert not wrong or (target == "cpu" and least < 30)


@pytest.mark.parametrize("name", [n for n in JUDGED if JUDGED[n].limits])
def test_what_stops_a_file_is_known(name: str) -> None:
    if name not in FOUND:
        pytest.skip("it has not been measured")
    judged = JUDGED[name]
    for file, (verdict, why) in FOUND[name][1].items():
        found = obstacles(FILES / f"{file}.onnx", judged.limits)
        assert bool(found) >= (verdict != "right"), (file, why)
        refused = {o.effect for o in found} == {"is refused"}
        assert not (refused and verdict == "right"), (file, found)


class Double:
    """A net in float64, at the point of the first run, on onnxgrad's reference runtime."""

    def __init__(self, gradient: Gradient, names: list[str]) -> None:
        net = NETS[gradient.net]
        self.model = net.model("double", SIZES)
        self.feeds = net.feeds(SIZES, "double")
        graph = self.model.graph
        weights = {w.name: w for w in graph.initializer}
        for name in names:
            if name in self.feeds:
                continue
            if name in weights:
                self.feeds[name] = onnx.numpy_helper.to_array(weights[name])
                graph.initializer.remove(weights[name])
            else:  # an inner tensor
                self.feeds[name] = og.Net(self.model, runtime="reference")(
                    dict(self.feeds), og.Value(name)
                )
                graph.node.remove(next(n for n in graph.node if name in n.output))
            array = self.feeds[name]
            graph.input.append(onnx.helper.make_tensor_value_info(name, 11, array.shape))
        self.net = og.Net(self.model, runtime="reference")

    def __call__(self, name: str, step: np.ndarray) -> np.ndarray:
        return self.net(self.feeds | {name: self.feeds[name] + step})


@pytest.mark.parametrize("gradient", IN_FLOAT, ids=lambda g: g.name)
def test_right_numbers_agree_with_finite_differences(gradient: Gradient) -> None:
    run = json.loads((FILES / "values.json").read_text())[gradient.name][0]
    feeds, outputs = read(run["feeds"]), read(run["outputs"])
    ends = {"jacobian": "_jacobian", "hvp": "_hvp"}
    found = {n: g for n, g in outputs.items() if n.endswith(ends.get(gradient.of, "_grad"))}
    named = {n.rsplit("_", 1)[0].removeprefix("y_"): g.astype(float) for n, g in found.items()}
    assert named
    net = Double(gradient, list(named))
    rng = np.random.default_rng(4)
    for name, g in named.items():
        d = rng.standard_normal(net.feeds[name].shape)
        if gradient.of == "hvp":
            (d,) = (array.astype(float) for key, array in feeds.items() if key != name)
            h = 1e-4
            ends_of = net(name, h * d).sum() + net(name, -h * d).sum() - 2 * net(name, 0 * d).sum()
            difference, expected = ends_of / h**2, (g * d).sum()
        else:
            h = 1e-6
            difference = (net(name, h * d) - net(name, -h * d)) / (2 * h)
            expected = np.tensordot(g, d, axes=d.ndim)
            difference = difference if gradient.of == "jacobian" else difference.sum()
        scale = np.linalg.norm(g) * np.linalg.norm(d)
        assert np.abs(difference - expected).max() < 1e-4 * scale, name
