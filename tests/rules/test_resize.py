"""Which axes a Resize leaves alone, in nets whose sizes are known at run time only."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

import onnxgrad as og
from tests.oracle import runner

# As exporters write F.interpolate to the size of another tensor, and to twice the size.
OTHER = "of_other = Shape(other)\n part = Slice(of_other, two, four, zero)"
TWICE = "part_of_x = Slice(of_x, two, four, zero)\n part = Mul(part_of_x, two)"
NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 3, H, W] x, float[N, 3, P, Q] other) => (float[N, 3, A, B] y) {
    zero = Constant<value = int64[1] {0}>()
    two = Constant<value = int64[1] {2}>()
    four = Constant<value = int64[1] {4}>()
    of_x = Shape(x)
    kept = Slice(of_x, zero, two, zero)
    %s
    sizes = Concat<axis = 0>(kept, part)
    t = Relu(x)
    y = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(t, , , sizes)
}"""


@pytest.mark.parametrize("part", [OTHER, TWICE])
def test_batch_and_channels_stay(part):
    full = og.gradient(onnx.parser.parse_model(NET % part), "x")
    count = Counter(node.op_type for node in full.graph.node)
    assert count["EyeLike"] == 2  # one matrix for the height, one for the width
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 3, 4, 5), "other": (2, 3, 7, 3)}
    feeds = {n: rng.uniform(1, 2, s).astype(np.float32) for n, s in shapes.items()}
    y, gradient = runner(full)(feeds)
    # The weights of an output add up to 1.
    assert gradient.sum() == pytest.approx(y.size, rel=1e-5)
    ones = runner(full)(feeds | {"x": np.ones((2, 3, 4, 5), np.float32)})[0]
    np.testing.assert_allclose(ones, 1, rtol=1e-6)
