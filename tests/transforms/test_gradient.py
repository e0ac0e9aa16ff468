"""The contract: what a gradient is of, with respect to what, its names, and what is refused."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx.reference.op_run import OpRun

import onnxgrad as og
from tests.oracle import accept

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
Array = np.ndarray


def parse(text: str, head: str = HEAD) -> onnx.ModelProto:
    model = onnx.parser.parse_model(head + text)
    accept(model)
    return model


def run(model: onnx.ModelProto, **feeds: Array | float) -> dict[str, Array]:
    accept(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(
        zip(names, session.run(None, {k: np.asarray(v) for k, v in feeds.items()}), strict=True)
    )


def metadata(model: onnx.ModelProto, key: str) -> dict[str, str]:
    return json.loads(next(p.value for p in model.metadata_props if p.key == key))


def f32(*values: float) -> Array:
    return np.array(values, np.float32)


# -- the seed examples ---------------------------------------------------------------------------


def test_ramp() -> None:
    grad = og.gradient(parse("g (float[N] x) => (float[N] y) { y = Relu(x) }"))
    assert run(grad, x=f32(0.5, -0.5))["x_grad"].tolist() == [1, 0]


def test_linear_layer() -> None:
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((4, 3)), rng.standard_normal(3)
    x, g = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    model = parse(
        """g (double[N,4] x, double[4,3] w, double[3] b) => (double[N,3] y) {
          h = MatMul(x, w)
          y = Add(h, b)
        }"""
    )
    got = run(og.vjp(model), x=x, w=w, b=b, y_ograd=g)
    for name, value in {"x": x, "w": w, "b": b}.items():
        numeric = np.zeros_like(value)
        for index in np.ndindex(*value.shape):
            plus, minus = value.copy(), value.copy()
            plus[index] += 1e-6
            minus[index] -= 1e-6
            at = {"x": x, "w": w, "b": b}
            up, down = at | {name: plus}, at | {name: minus}
            numeric[index] = (
                ((up["x"] @ up["w"] + up["b"]) - (down["x"] @ down["w"] + down["b"])) * g
            ).sum() / 2e-6
        np.testing.assert_allclose(got[f"{name}_grad"], numeric, rtol=1e-6, atol=1e-8)


def test_binary_cross_entropy() -> None:
    model = parse(
        """g (float[N] p, float[N] t) => (float[N] loss) <float one = {1}> {
          lp = Log(p)
          q = Sub(one, p)
          lq = Log(q)
          s = Sub(one, t)
          a = Mul(t, lp)
          b = Mul(s, lq)
          sum = Add(a, b)
          loss = Neg(sum)
        }"""
    )
    got = run(og.gradient(model, "p"), p=f32(0.2, 0.5, 0.8), t=f32(0.5, 0.5, 0.5))["p_grad"]
    assert got[0] < 0 < got[2]
    assert abs(got[1]) < 1e-6


# -- of what -------------------------------------------------------------------------------------

TWO = """g (float[N] x, float[N] z) => (float[N] a, float[N] b) <float[1] w = {3}> {
  h = Mul(x, w)
  a = Mul(h, z)
  b = Add(x, h)
}"""


def test_outputs_are_summed() -> None:
    got = run(og.gradient(parse(TWO)), x=f32(1, 2), z=f32(5, 7))
    assert got["x_grad"].tolist() == [3 * 5 + 4, 3 * 7 + 4]
    assert got["z_grad"].tolist() == [3, 6]


def test_one_output() -> None:
    got = run(og.gradient(parse(TWO), "x", of="b"), x=f32(1, 2), z=f32(5, 7))
    assert got["x_grad"].tolist() == [4, 4]


def test_of_an_intermediate_tensor() -> None:
    got = run(og.gradient(parse(TWO), "x", of="h"), x=f32(1, 2), z=f32(5, 7))
    assert list(got) == ["a", "b", "x_grad"]
    assert got["x_grad"].tolist() == [3, 3]


def test_ograd_is_a_dot_product() -> None:
    grad = og.gradient(parse(TWO), "x", ograd=True)
    feeds = {"x": f32(1, 2), "z": f32(5, 7), "a_ograd": f32(2, -1), "b_ograd": f32(1, 10)}
    assert run(grad, **feeds)["x_grad"].tolist() == [2 * 15 + 4, -21 + 40]
    assert metadata(grad, "onnxgrad.ograds") == {"a": "a_ograd", "b": "b_ograd"}


def test_ograd_on_some_outputs_silences_the_others() -> None:
    grad = og.gradient(parse(TWO), "x", ograd="a")
    got = run(grad, x=f32(1, 2), z=f32(5, 7), a_ograd=f32(1, 1))
    assert got["x_grad"].tolist() == [15, 21]


def test_gradient_of_a_tensor_with_respect_to_itself() -> None:
    got = run(og.gradient(parse(TWO), ["a", "x"], of="a"), x=f32(1, 2), z=f32(5, 7))
    assert got["a_grad"].tolist() == [1, 1]
    assert got["x_grad"].tolist() == [15, 21]


# -- with respect to what ------------------------------------------------------------------------


def test_batch_sum_of_a_parameter() -> None:
    got = run(og.gradient(parse(TWO), ["w", "x"], of="a"), x=f32(1, 2), z=f32(5, 7))
    assert got["w_grad"].tolist() == [1 * 5 + 2 * 7]
    assert got["x_grad"].shape == (2,)


def test_constant_node_identity_and_intermediate() -> None:
    model = parse(
        """g (float[N,2] x) => (float[N,2] y) {
          k = Constant <value = float[2] {3, 4}> ()
          k2 = Identity(k)
          h = Mul(x, k2)
          y = Mul(h, k)
        }"""
    )
    got = run(og.gradient(model, ["k", "k2", "h"]), x=f32(1, 2).reshape(1, 2))
    assert got["k_grad"].tolist() == [2 * 3, 2 * 2 * 4]
    assert got["k2_grad"].tolist() == [3, 8]
    assert got["h_grad"].tolist() == [[3, 4]]


def test_overridable_input() -> None:
    """An initializer that is a graph input too is a parameter, and what is fed counts."""
    x = onnx.helper.make_tensor_value_info("x", 1, ["N"])
    w = onnx.helper.make_tensor_value_info("w", 1, [2])
    y = onnx.helper.make_tensor_value_info("y", 1, ["N"])
    node = onnx.helper.make_node("Mul", ["x", "w"], ["y"])
    init = onnx.numpy_helper.from_array(f32(3, 4), "w")
    graph = onnx.helper.make_graph([node], "g", [x, w], [y], [init])
    opset = [onnx.helper.make_opsetid("", 21)]
    grad = og.gradient(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10))
    assert metadata(grad, "onnxgrad.gradients") == {"x": "x_grad"}
    assert run(grad, x=f32(1, 2))["x_grad"].tolist() == [3, 4]
    assert run(grad, x=f32(1, 2), w=f32(5, 6))["x_grad"].tolist() == [5, 6]
    everything = og.gradient(onnx.helper.make_model(graph, opset_imports=opset), og.ALL)
    assert list(metadata(everything, "onnxgrad.gradients")) == ["x", "w"]


def test_all() -> None:
    model = parse(TWO.replace("float[1] w = {3}", "float[2] w = {3, 3}"))
    grad = og.gradient(model, og.ALL, of="b")
    assert metadata(grad, "onnxgrad.gradients") == {"x": "x_grad", "z": "z_grad", "w": "w_grad"}
    got = run(grad, x=f32(1, 2), z=f32(5, 7))
    assert got["z_grad"].tolist() == [0, 0]
    assert got["w_grad"].tolist() == [1, 2]


# -- names and kinds -----------------------------------------------------------------------------


def test_names_and_forward() -> None:
    model = parse(TWO)
    grad = og.gradient(model, ["z", "x"])
    assert [o.name for o in grad.graph.output] == ["a", "b", "z_grad", "x_grad"]
    only = og.gradient(model, ["z", "x"], of="b", forward=False, unreachable="zeros")
    assert [o.name for o in only.graph.output] == ["z_grad", "x_grad"]
    assert "a" not in {name for n in only.graph.node for name in n.output}


def test_second_gradient_is_named_apart() -> None:
    first = og.gradient(parse("g (float[N] x) => (float[N] y) { y = Exp(x) }"))
    second = og.gradient(first, "x")
    assert [o.name for o in second.graph.output] == ["y", "x_grad", "x_grad_grad"]
    assert metadata(second, "onnxgrad.gradients") == {"x": "x_grad_grad"}
    got = run(second, x=f32(0.5))
    np.testing.assert_allclose(got["x_grad_grad"], np.exp(f32(0.5)), rtol=1e-6)


def test_shapes_and_dtypes_are_declared() -> None:
    grad = og.gradient(parse("g (float16[N,3] x) => (float16[N,3] y) { y = Tanh(x) }"), ograd=True)
    assert ir.from_proto(grad).graph.outputs[1].shape == ir.Shape(["N", 3])
    assert (
        run(grad, x=np.ones((2, 3), np.float16), y_ograd=np.ones((2, 3), np.float16))[
            "x_grad"
        ].dtype
        == np.float16
    )


def test_result_is_of_the_same_kind_and_the_argument_is_untouched(tmp_path) -> None:
    proto = parse(TWO)
    before = proto.SerializeToString(deterministic=True)
    assert isinstance(og.gradient(proto), onnx.ModelProto)
    assert proto.SerializeToString(deterministic=True) == before
    model = ir.from_proto(proto)
    text = ir.to_proto(model).SerializeToString(deterministic=True)
    result = og.gradient(model)
    assert isinstance(result, ir.Model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == text
    onnx.save(proto, tmp_path / "m.onnx")
    assert isinstance(og.gradient(tmp_path / "m.onnx"), onnx.ModelProto)
    assert isinstance(og.gradient(str(tmp_path / "m.onnx")), onnx.ModelProto)


# -- real files ----------------------------------------------------------------------------------


def test_stale_value_info_is_not_believed() -> None:
    """A batch made dynamic by hand, with the old inner shapes left in the file."""
    model = onnx.shape_inference.infer_shapes(
        parse(
            """g (float[1,3] x, float[1,3] b) => (float[1,3] y) {
              h = Tanh(x)
              y = Add(h, b)
            }"""
        )
    )
    assert len(model.graph.value_info) == 1
    for v in (model.graph.input[0], model.graph.output[0]):
        v.type.tensor_type.shape.dim[0].dim_param = "N"
    got = run(og.gradient(model), x=np.zeros((4, 3), np.float32), b=np.ones((1, 3), np.float32))
    assert got["b_grad"].tolist() == [[4, 4, 4]]
    assert got["x_grad"].shape == (4, 3)


def test_a_size_is_read_once() -> None:
    """From the only input that has it, for all sums over the batch."""
    model = parse(
        """g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1,2,3,4}, float[2] b = {5,6}> {
            h = MatMul(x, w)
            hb = Add(h, b)
            t = Mul(hb, hb)
            u = MatMul(t, w)
            y = Add(u, b)
        }"""
    )
    grad = og.gradient(model, ["w", "b"], ograd=True, forward=False)
    assert [n.input[0] for n in grad.graph.node if n.op_type == "Shape"] == ["x"]
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    got = run(grad, x=x, y_ograd=np.ones((3, 2), np.float32))
    w, b = np.array([[1, 2], [3, 4]]), np.array([5, 6])
    np.testing.assert_array_equal(got["b_grad"], 3 + (2 * (x @ w + b) * w.sum(1)).sum(0))


def test_inputs_may_differ_in_a_size_of_one_name() -> None:
    """No standard allows it, but runtimes do, and onnx's inference takes no notice."""
    model = parse(
        """g (float[N] p, float[N] t) => (float[1] y) {
            h = Exp(p)
            m = ReduceMean(h)
            k = Exp(t)
            n = ReduceMean(k)
            y = Add(m, n)
        }"""
    )
    found = run(og.gradient(model), p=f32(0, 0), t=f32(0, 0, 0, 0))
    np.testing.assert_array_equal(found["p_grad"], f32(0.5, 0.5))
    np.testing.assert_array_equal(found["t_grad"], f32(0.25, 0.25, 0.25, 0.25))


@pytest.mark.parametrize("name", ["?", "-1", "None"])
def test_question_marks_are_not_equal_sizes(name: str) -> None:
    model = parse("g (float[2] x, float[1] b) => (float[2] y) { y = Add(x, b) }")
    for v in (*model.graph.input, *model.graph.output):
        v.type.tensor_type.shape.dim[0].dim_param = name
    got = run(og.gradient(model), x=f32(1, 2), b=f32(3))
    assert got["b_grad"].tolist() == [2]


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18])
def test_old_opsets(opset: int) -> None:
    model = parse(
        """g (float[N,4] x) => (float[N,2] y) <float[4,2] w = {1,2,3,4,5,6,7,8}> {
          h = MatMul(x, w)
          y = Softmax <axis = 1> (h)
        }""",
        HEAD.replace("21", str(opset)),
    )
    before = run(model, x=np.ones((1, 4), np.float32))
    got = run(og.gradient(model, ["x", "w"], ograd=True), x=np.ones((1, 4), np.float32),
              y_ograd=np.array([[1, 0]], np.float32))  # fmt: skip
    np.testing.assert_allclose(got["y"], before["y"], rtol=1e-6)
    p = got["y"][0, 0] * got["y"][0, 1]
    np.testing.assert_allclose(got["w_grad"], np.outer(np.ones(4), [p, -p]), rtol=1e-5)


def test_model_local_function() -> None:
    model = parse(
        """g (float[N] x) => (float[N] y) { y = local.Twice(x) }
        <domain: "local", opset_import: ["" : 21]> Twice (v) => (r) { r = Add(v, v) }""",
        '<ir_version: 10, opset_import: ["" : 21, "local" : 1]>\n',
    )
    grad = og.gradient(model)
    assert not grad.functions
    assert run(grad, x=f32(1, 2))["x_grad"].tolist() == [2, 2]


# -- refusals ------------------------------------------------------------------------------------


def test_no_dependence() -> None:
    with pytest.raises(og.UnreachableError, match=r"'b' does not depend on 'z'.*'a' of operator M"):
        og.gradient(parse(TWO), "z", of="b")
    got = run(og.gradient(parse(TWO), "z", of="b", unreachable="zeros"), x=f32(1, 2), z=f32(5, 7))
    assert got["z_grad"].tolist() == [0, 0]


def test_blocked_by_zero_derivative() -> None:
    model = parse("g (float[N] x) => (float[N] y) { [r] h = Round(x) y = Exp(h) }")
    with pytest.raises(og.UnreachableError, match=r"Round, node 'r'.*straight-through"):
        og.gradient(model)
    assert run(og.gradient(model, unreachable="zeros"), x=f32(1.2))["x_grad"].tolist() == [0]


def test_a_refusal_advises_options_of_the_call() -> None:
    model = parse("g (float[N] x) => (float[N] y) { [r] h = Round(x) y = Exp(h) }")
    mse, x = og.losses.mse("y"), {"x": f32(1.2)}
    objective = og.bridges.scipy.objective(model, feeds=x)
    calls: list[tuple[Callable[[], Any], bool, bool]] = [
        (lambda: og.jacobian(model), True, True),
        (lambda: og.Net(model).gradient(x), False, True),
        (lambda: og.Net(model)(x, og.NetPortGradient("x")), False, True),
        (lambda: objective.jac(objective.x0), False, True),
        (lambda: og.adversarial.fgsm(model, loss=mse, eps=1), False, True),
        (lambda: og.check(model, x), False, False),
    ]
    for call, unreachable, straight_through in calls:
        with pytest.raises(og.UnreachableError, match=r"Round, node 'r'.*Choose other") as raised:
            call()
        message = str(pickle.loads(pickle.dumps(raised.value)))
        assert message.endswith(".")
        assert ("pass unreachable='zeros'" in message) == unreachable
        assert ("pass straight_through=['Round']" in message) == straight_through


def test_zero_beside_a_real_path() -> None:
    model = parse("g (float[N] x) => (float[N] y) { h = Floor(x) y = Mul(h, x) }")
    assert run(og.gradient(model), x=f32(2.5))["x_grad"].tolist() == [2]


UNKNOWN = """g (float[N] x) => (float[N] y) {
  h = Exp(x)
  [odd] k = com.acme.Strange(h)
  y = Exp(k)
}"""
ACME = '<ir_version: 10, opset_import: ["" : 21, "com.acme" : 1]>\n'


@pytest.mark.parametrize("unreachable", ["error", "zeros"])
def test_no_rule(unreachable: str) -> None:
    with pytest.raises(og.NoRuleError, match=r"com\.acme::Strange, node 'odd'.*'x' -> Exp -> 'h'"):
        og.gradient(parse(UNKNOWN, ACME), unreachable=unreachable)


def test_no_rule_off_the_path_is_no_matter() -> None:
    model = parse(UNKNOWN, ACME)
    grad = og.gradient(model, "x", of="h", forward=False)
    assert run(grad, x=f32(0))["x_grad"].tolist() == [1]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"wrt": "X"}, og.UnknownNameError, "Nearest: 'x'"),
        ({"wrt": "x", "of": "aa"}, og.UnknownNameError, "'a'"),
        ({"wrt": "nothing"}, og.UnknownNameError, "Inputs: 'x', 'z'. Outputs: 'a', 'b'."),
        ({"wrt": [3]}, og.UnknownNameError, "name or its position.* not 3"),
        ({"wrt": []}, og.ArgumentError, "a name or a sequence"),
        ({"wrt": 3}, og.ArgumentError, "a name or a sequence"),
        ({"of": "a", "ograd": "b"}, og.ArgumentError, "not among of"),
        ({"unreachable": "nan"}, og.ArgumentError, "'error' or 'zeros'"),
    ],
)
def test_bad_arguments(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        og.gradient(parse(TWO), **arguments)


def test_names_that_are_listed_twice_count_once() -> None:
    grad = og.gradient(parse(TWO), ["x", "x"], of=["b", "b"], ograd=["b", "b"], forward=False)
    assert [o.name for o in grad.graph.output] == ["x_grad"]
    assert [i.name for i in grad.graph.input][2:] == ["b_ograd"]


def test_integers_have_no_gradient() -> None:
    model = parse("g (int64[N] i) => (float[N] y) { y = Cast <to = 1> (i) }")
    with pytest.raises(og.ArgumentError, match="INT64"):
        og.gradient(model, "i")
    with pytest.raises(og.ArgumentError, match="no floating-point input; name weights or inner"):
        og.gradient(model)


# -- rules of one's own --------------------------------------------------------------------------


class Cube(OpRun):
    op_domain = "com.acme"

    def _run(self, x: Array) -> tuple[Array]:
        return (x**3,)


class Scaled(OpRun):
    op_domain = "com.acme"

    def _run(self, x: Array, s: Array, by: float) -> tuple[Array]:
        return (x * s * np.float32(by),)


def run_own(model: onnx.ModelProto, **feeds: Array) -> dict[str, Array]:
    """Runs a model with operators of com.acme, which onnxruntime does not have."""
    evaluator = onnx.reference.ReferenceEvaluator(model, new_ops=[Cube, Scaled])
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def test_rule_of_ones_own() -> None:
    text = """g (float[N] x) => (float[N] y) { h = com.acme.Cube(x) y = Exp(h) }"""
    model = parse(text, ACME)
    og.elementwise("com.acme::Cube", lambda x: 3 * x * x)
    try:
        grad = og.gradient(model, of="h", forward=False)
        assert run_own(grad, x=f32(2))["x_grad"].tolist() == [12]
    finally:
        og.forget("com.acme::Cube")
    with pytest.raises(og.NoRuleError):
        og.gradient(model)


def test_rule_with_operands_and_attributes() -> None:
    text = (
        """g (float[N] x, float[N] s) => (float[N] y) { y = com.acme.Scaled <by = 2.0> (x, s) }"""
    )

    @og.rule("com.acme::Scaled", "x", inputs=("x", "s"))
    def _(g, s, by):
        return g * s * by

    og.zero("com.acme::Scaled", "s", reason="a fixed scale")
    try:
        grad = og.gradient(parse(text, ACME), ["x", "s"], unreachable="zeros", forward=False)
        onnx.checker.check_model(grad)
        got = run_own(grad, x=f32(2, 3), s=f32(5, 7))
        assert got["x_grad"].tolist() == [10, 14]
        assert got["s_grad"].tolist() == [0, 0]
    finally:
        og.forget("com.acme::Scaled")


def test_zero_and_no_rule_for_operands_without_a_schema() -> None:
    model = parse("g (float[N] x, float[N] s) => (float[N] y) { y = com.acme.Step(x, s) }", ACME)
    try:
        og.zero("com.acme::Step", reason="a step")
        with pytest.raises(og.UnreachableError, match="a step"):
            og.gradient(model, "s")
        og.forget("com.acme::Step")
        og.not_implemented("com.acme::Step", reason="too hard")
        with pytest.raises(og.NoRuleError, match="operand '1': too hard"):
            og.gradient(model, "s")
    finally:
        og.forget("com.acme::Step")


def test_rules_are_checked() -> None:
    with pytest.raises(og.RuleError, match="declared twice"):
        og.elementwise("Tanh", lambda: 1)
    with pytest.raises(og.RuleError, match="not an operator"):
        og.elementwise("Tanhh", lambda: 1)
    with pytest.raises(og.RuleError, match="'Z' is neither"):
        og.rule("EyeLike", "input")(lambda g, Z: g)
    with pytest.raises(og.RuleError, match="no operand"):
        og.rule("EyeLike", "Z")(lambda g: g)


def test_a_wrong_cotangent_is_the_rules_fault() -> None:
    og.rule("com.acme::Bad", "x")(lambda op, g: op.Cast(g, to=onnx.TensorProto.DOUBLE))
    try:
        model = parse("g (float[N] x) => (float[N] y) { h = com.acme.Bad(x) y = Exp(h) }", ACME)
        with pytest.raises(og.RuleError, match="DOUBLE for FLOAT 'x'"):
            og.gradient(model, of="h")
    finally:
        og.forget("com.acme::Bad")


def test_metadata_of_an_output_that_is_dropped() -> None:
    """Without the forward outputs an optional one that nothing needs goes, but not its seed."""
    model = parse(
        """g (float[S,1,2] x, float[1,3,2] w, float[1,3,1] r) => (float[1,1,1] h) {
          y, h = GRU <hidden_size = 1> (x, w, r)
        }"""
    )
    grad = og.gradient(model, "x", ograd=True, forward=False)
    assert metadata(grad, "onnxgrad.ograds") == {"h": "h_ograd"}


# -- the sign ------------------------------------------------------------------------------------


def test_minus_changes_the_sign_of_the_gradients_that_are_named() -> None:
    energy = parse(
        "g (double[N] x, double[N] c) => (double e) { p = Mul(x, c)  q = Mul(p, x)"
        "  e = ReduceSum<keepdims = 0>(q) }"
    )
    model = og.gradient(energy, ["x", "c"], minus=["x"])
    x, c = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    found = run(model, x=x, c=c)
    assert (found["x_grad"].tolist(), found["c_grad"].tolist()) == ([-6, -20], [1, 4])
    assert metadata(model, "onnxgrad.minus") == {"x": "x_grad"}
    every = run(og.vjp(energy, minus=True), x=x, c=c, e_ograd=2.0)
    assert (every["x_grad"].tolist(), every["c_grad"].tolist()) == ([-12, -40], [-2, -8])
    again = og.gradient(model, "x", of="x_grad")  # of the forces: -2 c
    assert run(again, x=x, c=c)["x_grad_grad"].tolist() == [-6, -10]
    assert "onnxgrad.minus" not in {p.key for p in again.metadata_props}
    with pytest.raises(og.ArgumentError, match="minus names 'c', which is not among wrt: 'x'"):
        og.gradient(energy, "x", minus="c")


def test_a_tensor_joined_with_itself_thousands_of_times() -> None:
    """In time that grows with their number; its square would take tens of seconds."""
    count = 4000
    names = ", ".join(["x"] * count)
    text = f"g (float[N, 2] x, float[M, 2] s) => (float[K, 2] y) {{ c = Concat<axis = 0>({names})"
    model = parse(f"{text} y = Mul(c, s) }}")
    began = time.process_time()
    result = og.gradient(model, "x")
    assert time.process_time() - began < 5
    scale = np.random.default_rng(0).standard_normal((3 * count, 2)).astype(np.float32)
    found = run(result, x=np.ones((3, 2), np.float32), s=scale)["x_grad"]
    np.testing.assert_allclose(found, scale.reshape(count, 3, 2).sum(0), rtol=1e-3, atol=1e-3)
