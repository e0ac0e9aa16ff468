"""Functions that a model brings: inlined whatever opset they are of, kept where one is declared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.reference
import pytest

import onnxgrad as og
from tests.graph.test_reading import run

X = np.array([[1, -2], [3, 0.5]], np.float32)
ONES = np.ones_like(X)


def net(
    main: str, *functions: str, opset: int = 21, inputs: str = "float[N,2] x"
) -> onnx.ModelProto:
    """A net whose functions each begin with the opset that they are of."""
    text = f'<ir_version: 10, opset_import: ["" : {opset}, "com.acme" : 1]> '
    text += f"net ({inputs}) => (float[N,2] y) {{ {main} }}"
    for function in functions:
        version, _, rest = function.partition(" ")
        imports = f'["" : {version}, "com.acme" : 1]'
        text += f'<domain: "com.acme", opset_import: {imports}> {rest}'
    return onnx.parser.parse_model(text)


# -- declared --------------------------------------------------------------------------------------


@pytest.fixture
def declared() -> Iterator[None]:
    """triple(a) = 3 a with the derivative 300, and step, of derivative zero."""
    og.elementwise("com.acme::triple", lambda: 300, inputs=["a"], outputs=["b"])
    og.zero("com.acme::step", reason="a step")
    yield
    og.forget("com.acme::triple")
    og.forget("com.acme::step")


TRIPLE = "21 triple (a) => (b) { k = Constant<value = float {3.0}>() b = Mul(a, k) }"
STEP = "21 step (a) => (b) { b = Mul(a, a) }"
CALLS = {
    "graph": ("h = com.acme.triple(x) y = Mul(h, x)", TRIPLE),
    "function": (
        "h = com.acme.outer(x) y = Mul(h, x)",
        TRIPLE,
        "21 outer (a) => (c) { b = com.acme.triple(a) c = Identity(b) }",
    ),
    "branch": (
        "t = ReduceSum(x) f = Cast<to = 9>(t) "
        "h = If(f) <then_branch = a () => (float[N,2] p) { p = com.acme.triple(x) }, "
        "else_branch = b () => (float[N,2] q) { q = Neg(x) }> y = Mul(h, x)",
        TRIPLE,
    ),
    "function with a branch": (
        "h = com.acme.outer(x) y = Mul(h, x)",
        TRIPLE,
        "21 outer (a) => (c) { t = ReduceSum(a) f = Cast<to = 9>(t) "
        "c = If(f) <then_branch = a () => (p) { p = com.acme.triple(a) }, "
        "else_branch = b () => (q) { q = Neg(a) }> }",
    ),
}


@pytest.mark.usefixtures("declared")
@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("where", CALLS)
def test_a_declared_function_keeps_its_node_and_its_rule_applies(where: str, opset: int) -> None:
    """y = 3 x x, and by the rule dy/dx = 3 x + 300 x, once more 300 + 300."""
    parts = [part.replace("21 ", f"{opset} ", 1) for part in CALLS[where][1:]]
    model = net(CALLS[where][0], *parts, opset=opset)
    first = og.gradient(model)
    assert [f.name for f in first.functions] == ["triple"]
    found = run(first, x=X)
    np.testing.assert_allclose(found["y"], 3 * X * X)
    np.testing.assert_allclose(found["x_grad"], 303 * X)
    second = og.gradient(first, of="x_grad", forward=False)
    np.testing.assert_allclose(run(second, x=X)["x_grad_grad"], 600 * ONES)
    moved = run(og.jvp(model), x=X, x_tangent=2 * ONES)
    np.testing.assert_allclose(moved["y_tangent"], 606 * X)
    np.testing.assert_allclose(run(og.hvp(model), x=X, x_tangent=ONES)["x_hvp"], 600 * ONES)
    expected = np.einsum("ab,ac,bd->abcd", X, np.eye(2), np.eye(2)) * 303
    np.testing.assert_allclose(run(og.jacobian(model), x=X)["y_x_jacobian"], expected)
    twice = np.stack([X, 2 * X])
    np.testing.assert_allclose(run(og.vmap(first), x=twice)["x_grad"], 303 * twice)
    np.testing.assert_allclose(run(og.gradient(og.vmap(model)), x=twice)["x_grad"], 303 * twice)


@pytest.mark.usefixtures("declared")
def test_the_rest_of_the_package_asks_the_rule_too(tmp_path) -> None:
    model = net(*CALLS["function"])
    port = og.NetPortGradient("x")
    f = og.Net(model)
    np.testing.assert_allclose(f(X, port), 303 * X)
    assert f.jacobian(X).shape == (2, 2, 2, 2)
    rows = {row.operator: row.state for row in og.inspect(model)}
    assert rows == {"triple": "rule", "Identity": "rule", "Mul": "rule"}
    assert not og.check(model, X)  # it is not the derivative, as the numbers tell
    weights = net("h = com.acme.triple(w) y = Mul(h, x)", TRIPLE, inputs="float[N,2] x, float[2] w")
    each = run(og.per_example_gradient(weights, "w", batched="x"), x=X, w=np.ones(2, np.float32))
    np.testing.assert_allclose(each["w_grad"], 300 * X)
    for path in og.family(model, tmp_path, name="f"):
        onnx.checker.check_model(path, full_check=True)
        assert "triple" in [function.name for function in onnx.load(path).functions]
    gone = og.gradient(net("y = Mul(x, x) z = com.acme.triple(x)", TRIPLE))
    assert not gone.functions


@pytest.mark.usefixtures("declared")
def test_a_function_declared_to_be_constant() -> None:
    model = net("h = com.acme.step(x) y = Mul(h, x)", STEP)
    np.testing.assert_allclose(run(og.gradient(model), x=X)["x_grad"], X * X)
    with pytest.raises(og.UnreachableError, match="a step"):
        og.gradient(net("y = com.acme.step(x)", STEP))


def test_without_a_declaration_it_is_inlined() -> None:
    found = og.gradient(net(*CALLS["function"]))
    assert not found.functions
    np.testing.assert_allclose(run(found, x=X)["x_grad"], 6 * X)


def test_the_package_has_no_say_in_a_function_of_the_same_name() -> None:
    """One called com.microsoft::QuickGelu is what its body says, until the user declares it."""
    text = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
        net (float[N,2] x) => (float[N,2] y) { y = com.microsoft.Inverse(x) }
        <domain: "com.microsoft", opset_import: ["" : 21]> Inverse (a) => (b) { b = Mul(a, a) }"""
    found = og.gradient(onnx.parser.parse_model(text))
    np.testing.assert_allclose(run(found, x=X)["x_grad"], 2 * X)


def test_attributes_and_functions_within_a_declared_function() -> None:
    """scaled(a, by = 2) calls double(a) = 2 a; its rule asks for an attribute with a default."""
    functions = (
        "21 scaled <by : float = 2.0> (a) => (b) { k = Constant<value_float : float = @by>() "
        "d = com.acme.double(a) b = Mul(d, k) }",
        "21 double (a) => (b) { b = Add(a, a) }",
    )
    og.rule("com.acme::scaled", "a", inputs=["a"], outputs=["b"])(lambda g, by: g * (1000 * by))
    try:
        for opset in (13, 21):
            given = [part.replace("21 ", f"{opset} ", 1) for part in functions]
            main = "h = com.acme.scaled(x) y = com.acme.scaled<by = 3.0>(h)"
            found = og.gradient(net(main, *given, opset=opset))
            assert {f.name for f in found.functions} == {"scaled", "double"}
            values = run(found, x=X)
            np.testing.assert_allclose(values["y"], 24 * X)
            np.testing.assert_allclose(values["x_grad"], 6e6 * ONES)
        old = "12 scaled <axis : int> (a) => (b) { b = Softmax<axis : int = @axis>(a) }"
        with pytest.raises(og.ModelError, match=r"Softmax of the function com.acme::scaled"):
            og.gradient(net("y = com.acme.scaled<axis = 0>(x)", old, opset=12))
    finally:
        og.forget("com.acme::scaled")


def test_a_declared_function_of_an_old_opset_is_raised_too() -> None:
    """Its ReduceSum has an attribute in the place of today's operand."""
    old = "11 total (a) => (b) { t = ReduceSum<axes = [1]>(a) b = Mul(t, a) }"
    og.rule("com.acme::total", "a", inputs=["a"], outputs=["b"])(lambda g: g * 7)
    try:
        for opset in (11, 17, 21):
            values = run(og.gradient(net("y = com.acme.total(x)", old, opset=opset)), x=X)
            np.testing.assert_allclose(values["y"], X.sum(1, keepdims=True) * X)
            np.testing.assert_allclose(values["x_grad"], 7 * ONES)
    finally:
        og.forget("com.acme::total")


def test_a_straight_through_rule_counts_where_it_is_asked_for() -> None:
    model = net("y = com.acme.rounded(x)", "21 rounded (a) => (b) { b = Mul(a, a) }")
    og.elementwise(
        "com.acme::rounded", lambda: 1, inputs=["a"], outputs=["b"], straight_through=True
    )
    try:
        np.testing.assert_allclose(run(og.gradient(model), x=X)["x_grad"], 2 * X)
        for asked in (True, ["com.acme::rounded"]):
            straight = og.gradient(model, straight_through=asked)
            np.testing.assert_allclose(run(straight, x=X)["x_grad"], ONES)
    finally:
        og.forget("com.acme::rounded")


# -- of another opset ------------------------------------------------------------------------------

# Of y = softmax(x)_0 along the first axis, from before it meant one axis, and other old forms.
OLD = {
    "Softmax of opset 12": ("12", "s (a) => (b) { b = Softmax<axis = 0>(a) }", "flat"),
    "ReduceSum of opset 11": (
        "11",
        "s (a) => (b) { t = ReduceSum<axes = [1], keepdims = 1>(a) b = Mul(t, a) }",
        "sum",
    ),
    "attributes of the call": (
        "11",
        "s <axes> (a) => (b) { t = ReduceSum<axes : ints = @axes>(a) b = Mul(t, a) }",
        "sum",
    ),
    "a branch": (
        "13",
        "s (a) => (b) { c = Constant<value = bool {1}>() "
        "b = If(c) <then_branch = p () => (t) { m = ReduceMean<axes = [1]>(a) t = Mul(m, a) }, "
        "else_branch = q () => (u) { u = Neg(a) }> }",
        "mean",
    ),
}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def weighted(x: np.ndarray, by: float) -> tuple[np.ndarray, np.ndarray]:
    """y = by * rowsum(x) * x, and the gradient of sum(y * y)."""
    rows = x.sum(1, keepdims=True)
    y = by * rows * x
    return y, 2 * by * (rows * y + (x * y).sum(1, keepdims=True))


def expected(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The value of z = s(x) and the gradient of sum(z * z)."""
    if kind == "flat":
        z = softmax(X)
        return z, 2 * (z * z - z * (z * z).sum())
    return weighted(X, 1.0 if kind == "sum" else 0.5)


@pytest.mark.parametrize("opset", [9, 13, 17, 21, 23])
@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("nested", [False, True])
def test_functions_of_other_opsets_than_the_graph(name: str, opset: int, nested: bool) -> None:
    version, body, kind = OLD[name]
    given = "<axes = [1]>" if "<axes>" in body else ""
    functions = [f"{version} {body}"]
    call = f"z = com.acme.s{given}(x)"
    if nested:  # by way of a function of yet another opset
        functions.append(f"18 outer (a) => (c) {{ c = com.acme.s{given}(a) }}")
        call = "z = com.acme.outer(x)"
    found = og.gradient(net(f"{call} y = Mul(z, z)", *functions, opset=opset))
    assert not found.functions
    opsets = {entry.domain: entry.version for entry in found.opset_import}
    assert opsets == {"": max(opset, 18)}
    values = run(found, x=X)
    z, g = expected(kind)
    np.testing.assert_allclose(values["y"], z * z, rtol=1e-5)
    np.testing.assert_allclose(values["x_grad"], g, rtol=1e-4, atol=1e-6)


def test_what_onnxruntime_runs_of_several_opsets_it_runs_with_gradients() -> None:
    """Its own value of the file is the value of the file with gradients."""
    square = "17 square (a) => (b) { b = Mul(a, a) }"
    model = net("z = com.acme.square(x) y = Tanh(z)", square, opset=18)
    found = run(og.gradient(model), x=X)
    np.testing.assert_allclose(found["y"], run(model, x=X)["y"])
    np.testing.assert_allclose(found["x_grad"], 2 * X * (1 - found["y"] ** 2), rtol=1e-4)
    assert og.check(model, X)


def test_an_output_that_is_an_input_and_one_given_out_twice() -> None:
    both = "17 both (a) => (b, c, d) { b = Mul(a, a) c = Identity(a) d = Identity(b) }"
    model = net("p, q, r = com.acme.both(x) s = Add(p, q) y = Add(s, r)", both)
    del model.functions[0].node[1:]
    model.functions[0].output[:] = ["b", "a", "b"]
    found = og.gradient(model)
    assert [i.name for i in found.graph.input] == ["x"]
    np.testing.assert_allclose(run(found, x=X)["x_grad"], 4 * X + 1)


def test_one_function_called_at_several_places() -> None:
    square = "12 square (a) => (b) { b = Mul(a, a) }"
    text = "p = com.acme.square(x) q = com.acme.square(p) y = com.acme.square(q)"
    np.testing.assert_allclose(
        run(og.gradient(net(text, square)), x=X)["x_grad"], 8 * X**7, rtol=1e-5
    )


def test_a_function_that_calls_itself_and_an_opset_that_nobody_knows() -> None:
    again = "21 again (a) => (b) { b = com.acme.other(a) }"
    other = "21 other (a) => (b) { b = com.acme.again(a) }"
    with pytest.raises(og.ModelError, match=r"calls itself: .*again"):
        og.gradient(net("y = com.acme.again(x)", again, other))
    with pytest.raises(og.ModelError, match="opset 99"):
        og.gradient(net("y = com.acme.f(x)", "99 f (a) => (b) { b = Neg(a) }"))


@pytest.mark.parametrize("count", [40, 400])
@pytest.mark.parametrize("last", [17, 21])
def test_functions_that_call_each_other_deep(count: int, last: int) -> None:
    calls = [f"21 f{k} (a) => (b) {{ b = com.acme.f{k + 1}(a) }}" for k in range(count)]
    model = net("y = com.acme.f0(x)", *calls, f"{last} f{count} (a) => (b) {{ b = Mul(a, a) }}")
    if count > 50 and last != 21:
        with pytest.raises(og.ModelError, match="more than 50 deep"):
            og.gradient(model)
    else:
        values = onnx.reference.ReferenceEvaluator(og.gradient(model)).run(["x_grad"], {"x": X})
        np.testing.assert_allclose(values[0], 2 * X)


def test_a_function_with_the_name_of_an_operator_of_the_standard() -> None:
    """onnxruntime runs the operator, others the function."""
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
        net (float[N,2] x) => (float[N,2] y) { y = Sin(x) }
        <domain: "", opset_import: ["" : 21]> Sin (p) => (o) { o = Mul(p, p) }""")
    with pytest.raises(og.ModelError, match="function 'Sin', which is an operator of the standard"):
        og.gradient(model)


def test_a_function_with_the_name_of_an_operator_of_a_later_opset() -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
        net (float[N,2] x) => (float[N,2] y) { y = Gelu(x) }
        <domain: "", opset_import: ["" : 18]> Gelu (p) => (o) { o = Mul(p, p) }""")
    np.testing.assert_allclose(run(og.gradient(model), x=X)["x_grad"], 2 * X)
