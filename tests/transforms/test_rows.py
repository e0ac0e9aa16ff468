"""Where examples are: what is proven holds in numbers, for every rule, and what is mixed is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from onnxgrad.graph.facts import by_name
from onnxgrad.passes.normalise import normalise
from onnxgrad.transforms.row_sizes import Rows
from onnxgrad.transforms.rows import RULES, rows_of
from tests.samples import Sample, load_samples

SAMPLES = [s for s in load_samples() if s.op in RULES and not s.domain]


def found(model: onnx.ModelProto, axes: dict[str, int]) -> dict[str, Rows]:
    """Where the examples are, by tensor, if they are on these axes, whose size is "examples"."""
    net = ir.serde.deserialize_model(model)
    normalise(net, [])
    values = by_name(net.graph)
    rows = rows_of(net.graph, {values[n]: k for n, k in axes.items()}, "examples")
    return {v.name or "": place for v, place in rows.items()}


def with_examples(sample: Sample, axes: dict[int, int]) -> onnx.ModelProto:
    """A model of the sample's node, with the examples along these axes of operands."""
    helper, inputs, weights = onnx.helper, [], []
    for k, a in enumerate(sample.inputs):
        if a is None:
            continue
        array = a.astype(np.float32) if a.dtype == np.float64 else a
        dims: list[Any] = list(array.shape)
        if k in axes:
            dims[axes[k]] = "examples"
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(f"x{k}", kind, dims))
        else:
            weights.append(onnx.numpy_helper.from_array(array, f"x{k}"))
    names = ["" if a is None else f"x{k}" for k, a in enumerate(sample.inputs)]
    ys = [f"y{k}" for k in range(sample.outputs)]
    node = helper.make_node(sample.op, names, ys, **sample.attributes)
    graph = helper.make_graph(
        [node], "g", inputs, [onnx.ValueInfoProto(name=y) for y in ys], weights
    )
    imports = [helper.make_opsetid("", sample.opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def placings(sample: Sample) -> Iterator[dict[int, int]]:
    """Operands that may have the examples, and where: one alone, all that can, and some of them."""
    seen = set()
    shapes = {k: a.shape for k, a in enumerate(sample.inputs) if a is not None and a.ndim}
    for first, shape in shapes.items():
        for axis, size in enumerate(shape):
            same = [k for k, s in shapes.items() if len(s) > axis and s[axis] == size]
            states = {k: 0 if k == 4 else axis for k in (4, 5, 6) if k in shapes}
            for one in (
                {first: axis},
                dict.fromkeys(same, axis),
                dict.fromkeys([first, *[k for k in same if shapes[k] == shape]], axis),
                {first: axis, **states},
            ):
                key = tuple(sorted(one.items()))
                if key not in seen and all(axis < len(shapes[k]) for k, axis in one.items()):
                    seen.add(key)
                    yield one


def split(y: np.ndarray, place: Rows, count: int) -> np.ndarray:
    """A result with its examples on an axis of their own."""
    at, outer = place.axis, place.outer.number
    inner = y.shape[at] // (outer * count) if count else 1
    return np.moveaxis(y.reshape(*y.shape[:at], outer, count, inner, *y.shape[at + 1 :]), at + 1, 0)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(model.SerializeToString(), options).run(None, feeds)


@pytest.mark.parametrize("op", sorted({sample.op for sample in SAMPLES}))
def test_what_is_proven_holds(op: str) -> None:
    """Two batches as one give the results of both, one after the other; each rule applies once."""
    assert sum(holds(sample) for sample in SAMPLES if sample.op == op)


def holds(sample: Sample) -> int:
    """How often examples are proven to be apart in a sample; fails where they are not."""
    proven = 0
    for axes in placings(sample):
        model = with_examples(sample, axes)
        try:
            places = found(model, {f"x{k}": axis for k, axis in axes.items()})
        except Exception:  # the operator does not take such operands
            continue
        kept = {k: places[f"y{k}"] for k in range(sample.outputs) if f"y{k}" in places}
        if not kept:
            continue
        one = {f"x{k}": np.asarray(sample.inputs[k]) for k in axes}
        one = {n: x.astype(np.float32) if x.dtype == np.float64 else x for n, x in one.items()}
        at = {f"x{k}": axis for k, axis in axes.items()}
        other = {n: np.flip(x, at[n]) for n, x in one.items()}
        both = {n: np.concatenate([one[n], other[n]], at[n]) for n in one}
        count = next(x.shape[at[n]] for n, x in one.items())
        try:
            a, b = run(model, one), run(model, other)
        except Exception:  # a sample of broadcasting, or not a kernel of float32
            continue
        whole = run(model, both)
        for k, place in kept.items():
            expected = np.concatenate([split(t[k], place, count) for t in (a, b)])
            np.testing.assert_allclose(
                split(whole[k], place, 2 * count), expected, rtol=1e-4, atol=1e-5
            )
        proven += 1
    return proven


HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '
MIXED = {
    "mean over them": "m = ReduceMean(x, zero) y = Sub(x, m)",
    "sum of all": "y = ReduceSum(x)",
    "softmax over them": "y = Softmax<axis = 0>(x)",
    "running sum": "y = CumSum(x, nought)",
    "Gram matrix": "t = Transpose(x) y = MatMul(x, t)",
    "a row for all": "r = Gather(x, nought) y = Add(x, r)",
    "a row more": "y = Concat<axis = 0>(x, c)",
    "a table of their number": "y = Add(x, table)",
    "another order": "y = Gather(x, zero)",
    "rows of another length": "y = Reshape(x, sizes)",
    "their number": "n = Size(x) f = Cast<to = 1>(n) y = Mul(x, f)",
    "padded": "y = Pad(x, pads)",
    "cut": "y = Slice(x, zero, one)",
    "an operator that nobody knows": "y = Det(x)",
}
WEIGHTS = """<int64[1] zero = {0}, int64[1] one = {1}, int64 nought = {0},
float[1, 4] c = {1, 2, 3, 4},
float[3, 4] table = {1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4}, int64[2] sizes = {-1, 2},
int64[4] pads = {1, 0, 0, 0}>"""


@pytest.mark.parametrize("name", MIXED)
def test_examples_that_influence_each_other(name: str) -> None:
    text = f"{HEAD}(float[examples, 4] x) => (float y) {WEIGHTS} {{ {MIXED[name]} }}"
    place = found(onnx.parser.parse_model(text), {"x": 0}).get("y")
    assert place is None or (name == "rows of another length" and not place.plain)


APART = {
    "exporters' sizes": (
        "s = Shape(x) n = Gather(s, nought) u = Unsqueeze(n, zero) t = Concat<axis = 0>(u, two, "
        "two) r = Reshape(x, t) p = Transpose<perm = [1, 0, 2]>(r) a = Mul(n, twice) "
        "v = Unsqueeze(a, zero) w = Concat<axis = 0>(v, two) m = Reshape(p, w) e = Tanh(m) "
        "b = Concat<axis = 0>(two, u, two) q = Reshape(e, b) y = ReduceSum<keepdims = 0>(q, zero)",
        Rows(0),
    ),
    "a token for each": (
        "s = Shape<end = 1>(x) t = Concat<axis = 0>(s, four) k = Expand(c, t) "
        "y = Concat<axis = 1>(k, x)",
        Rows(0),
    ),
    "moved": ("t = Transpose(x) y = Softmax<axis = 0>(t)", Rows(1)),
    "flat": ("y = Flatten<axis = 1>(x)", Rows(0)),
    "squeezed": ("u = Unsqueeze(x, zero) y = Squeeze(u, zero)", Rows(0)),
}


@pytest.mark.parametrize("name", APART)
def test_examples_that_are_followed(name: str) -> None:
    body, place = APART[name]
    more = WEIGHTS[:-1] + ", int64[1] two = {2}, int64[1] four = {4}, int64 twice = {2}>"
    text = f"{HEAD}(float[examples, 4] x) => (float y) {more} {{ {body} }}"
    assert found(onnx.parser.parse_model(text), {"x": 0})["y"] == place
