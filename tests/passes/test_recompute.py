"""What the backward pass of a training step computes anew, and when."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxgrad as og
from onnxgrad import train
from tests.train.running import Loop

RNG = np.random.default_rng(0)
GELU = "a = Add(e, one) p = Mul(h, a) z = Mul(p, half)"
BODY = f"m = MatMul(x, w) h = Add(m, b) s = Mul(h, root) e = Erf(s) {GELU} y = MatMul(z, v)"
NUMBERS = {
    "w": RNG.standard_normal((4, 5)),
    "b": RNG.standard_normal(5),
    "v": RNG.standard_normal((5, 3)),
    "root": np.sqrt(0.5),
    "one": 1.0,
    "half": 0.5,
}
X, LABELS = RNG.standard_normal((8, 4)), RNG.standard_normal((8, 3))


def net(body: str, rows: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (double[{rows},4] x) => (double[{rows},3] y)'
        f" {{ {body} }}"
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a, np.float64), name) for name, a in NUMBERS.items()
    )
    return model


def step(model: onnx.ModelProto) -> onnx.ModelProto:
    return train.step(model, og.losses.mse("y"), train.SGD(), ["w", "b", "v"])


def readers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if name in node.input]


def needed(model: onnx.ModelProto, name: str) -> set[str]:
    """All tensors that a tensor is computed from."""
    made = {output: node for node in model.graph.node for output in node.output}
    found, stack = set(), [name]
    while stack:
        if (x := stack.pop()) not in found:
            found.add(x)
            stack += made[x].input if x in made else []
    return found


@pytest.mark.parametrize("rows", ["N", "8"])
def test_of_a_gelu_one_tensor_is_kept(rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(BODY, rows)
    found = step(model)
    onnx.checker.check_model(found, full_check=True)
    for name in "seapz":  # the forward pass alone reads them
        assert len(readers(found, name)) == 1, name
    for name in "seapz":  # none can be computed before the backward pass begins
        assert "y" in needed(found, f"{name}_again"), name
    monkeypatch.setattr("onnxgrad.train.steps.recompute", lambda *_: None)
    kept = step(model)
    assert len(readers(kept, "a")) > 1
    one, other = Loop(found, model), Loop(kept, model)
    for _ in range(3):
        one(0.1, x=X, labels=LABELS)
        other(0.1, x=X, labels=LABELS)
    for name in ("w", "b", "v"):
        assert not np.array_equal(one.state[name], NUMBERS[name])
        np.testing.assert_array_equal(one.state[name], other.state[name])


def test_what_follows_from_nothing_that_is_kept_stays() -> None:
    """Of tanh the derivative reads its value alone: what it is computed from is not kept."""
    found = step(net("m = MatMul(x, w) h = Add(m, b) z = Tanh(h) y = MatMul(z, v)", "N"))
    assert not [o for node in found.graph.node for o in node.output if o in ("h_again", "z_again")]


def test_updates_are_in_the_order_of_the_backward_pass() -> None:
    """onnxruntime goes back from the last node: that is to be the update that can run first."""
    nodes = step(net(BODY, "N")).graph.node
    ends = [o for node in nodes for o in node.output if o in ("w_next", "b_next", "v_next")]
    assert ends == ["w_next", "b_next", "v_next"]


def test_where_only_a_shape_is_read_nothing_is_computed_anew() -> None:
    outputs = [o for node in step(net(BODY, "N")).graph.node for o in node.output]
    assert "z_again" in outputs
    assert not [o for o in outputs if o.startswith("loss") and o.endswith("again")]
