"""Rules that hold for one backward pass: in inner graphs too, and nowhere else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

import onnxgrad as og
from onnxgrad.emit import shapes
from onnxgrad.emit.tensor import Tensor
from onnxgrad.engine.reverse import Rules, Visit
from onnxgrad.transforms.job import Job
from onnxgrad.transforms.options import Options

HEAD = '<ir_version: 9, opset_import: ["" : 18]> g (float[3] x, bool c) => (float[3] y)'
X = np.array([-1.0, 0.5, 2.0], np.float32)
# Each computes tanh(3 x), or tanh at each of 3 steps.
NETS = {
    "plain": f"{HEAD} {{ z = Sum(x, x, x) y = Tanh(z) }}",
    "If": f"""{HEAD} {{ z = Sum(x, x, x)
        y = If (c) <then_branch = a () => (float[3] p) {{ p = Tanh(z) }},
                    else_branch = b () => (float[3] q) {{ q = Tanh(z) }}> }}""",
    "If in If": f"""{HEAD} {{ z = Sum(x, x, x)
        y = If (c) <then_branch = a () => (float[3] p) {{
            p = If (c) <then_branch = d () => (float[3] r) {{ r = Tanh(z) }},
                        else_branch = e () => (float[3] s) {{ s = Identity(z) }}> }},
                    else_branch = b () => (float[3] q) {{ q = Identity(z) }}> }}""",
    "Loop": f"""{HEAD} {{ n = Constant<value_int = 3>()
        y = Loop (n, , x) <body = b (int64 i, bool go, float[3] s) => (bool on, float[3] t) {{
            on = Identity(go) t = Tanh(s) }}> }}""",
    "Scan": f"""{HEAD} {{ k = Constant<value_floats = [0.0, 0.0, 0.0]>()
        y, u = Scan<num_scan_inputs = 1, body = b (float[3] s, float e) => (float[3] t, float f) {{
            v = Add(s, e) t = Tanh(v) f = Identity(e) }}> (x, k) }}""",
}


def double(visit: Visit) -> dict[int, Tensor]:
    """Twice what comes, as if y = 2 x."""
    (g,) = visit.gs
    assert g is not None
    return {0: g * 2}


def differentiated(name: str, rules: Rules | None) -> onnx.ModelProto:
    net = ir.serde.from_proto(onnx.parser.parse_model(NETS[name]))
    job = Job(net, "x", Options(of="y"))
    found = job.pull({job.of[0]: shapes.full_like(job.op.tensor(job.of[0]), 1)}, rules=rules)
    job.finish({"x_grad": found[job.wrt[0]]})
    return ir.to_proto(net)


def gradient(model: onnx.ModelProto) -> np.ndarray:
    feeds = {"x": X, "c": np.array(True)}
    return ort.InferenceSession(model.SerializeToString()).run(["x_grad"], feeds)[0]


@pytest.mark.parametrize("name", NETS)
def test_a_rule_in_the_place_of_an_operators(name: str) -> None:
    expected = 8 if name in ("Loop", "Scan") else 6
    np.testing.assert_allclose(gradient(differentiated(name, {"Tanh": double})), expected)


def test_the_usual_rule_with_other_cotangents_and_at_another_node() -> None:
    def shifted(visit: Visit) -> dict[int, Tensor]:
        op, (g,), x = visit.op, visit.gs, visit.node.inputs[0]
        assert g is not None and x is not None
        op.Tanh(op.tensor(x) * 0)
        elsewhere = list(op.graph)[-1]
        return {0: visit.vjp()[0] + visit.vjp([g * 5], elsewhere)[0]}

    found = gradient(differentiated("plain", {"Tanh": shifted}))
    np.testing.assert_allclose(found, 3 * (1 - np.tanh(3 * X) ** 2) + 15, rtol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_it_holds_for_that_pass_alone(name: str) -> None:
    """Also while others run in other threads."""
    before = differentiated(name, None)
    with ThreadPoolExecutor(4) as pool:
        some = [pool.submit(differentiated, name, {"Tanh": double}) for _ in range(4)]
        others = [pool.submit(differentiated, name, None) for _ in range(4)]
        assert {f.result().SerializeToString() for f in others} == {before.SerializeToString()}
        assert len({f.result().SerializeToString() for f in some}) == 1
    assert np.abs(gradient(some[0].result()) - gradient(before)).max() > 0.1
    assert differentiated(name, None) == before


def test_the_second_order_has_the_operators_own_rules() -> None:
    """The result is a net like any other: here it is constant in x."""
    model = og.gradient(differentiated("plain", {"Tanh": double}), "x", of="y")
    names = [o.name for o in model.graph.output]
    assert "x_grad_grad" in names
    feeds = {"x": X, "c": np.array(True)}
    found = ort.InferenceSession(model.SerializeToString()).run(["x_grad_grad"], feeds)[0]
    np.testing.assert_allclose(found, 3 * (1 - np.tanh(3 * X) ** 2), rtol=1e-5, atol=1e-6)
