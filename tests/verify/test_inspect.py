"""og.inspect: what it lists, in which state, and that it raises for no missing rule."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import onnxgrad as og
from onnxgrad.verify.inspect import InspectReport

MODELS = Path(__file__).parents[2] / "models"


def parse(body: str, opsets: str = '"" : 21') -> onnx.ModelProto:
    return onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]>\n{body}")


@pytest.fixture
def ramp():
    """An operator of the user's own, forgotten afterwards."""
    yield "com.acme::Ramp"
    og.forget("com.acme::Ramp")


def states(report: InspectReport) -> dict[str, str]:
    return {row.operator: row.state for row in report}


def test_counts_the_nodes_on_the_path() -> None:
    report = og.inspect(MODELS / "mlp.onnx")
    assert {row.operator: row.count for row in report} == {"Gemm": 3, "Relu": 1, "Tanh": 1}
    assert len(report) == 3
    assert report.ok
    assert report.wrt == ("input",)
    assert report.of == ("logits",)
    gemm = next(row for row in report if row.operator == "Gemm")
    assert (gemm.domain, gemm.state, len(gemm.nodes)) == ("", "rule", 3)


def test_only_the_path_counts() -> None:
    report = og.inspect(MODELS / "two_in_two_out.onnx", "b", "energy")
    assert "Tanh" not in states(report)
    assert not og.inspect(MODELS / "two_in_two_out.onnx", "a", "energy").rows
    assert og.inspect(MODELS / "two_in_two_out.onnx", "a", "energy").unreached == ("a",)


def test_positions_and_all_as_in_gradient() -> None:
    assert og.inspect(MODELS / "mlp.onnx", [["fc3", "weight"]]).wrt == ("fc3.weight",)
    assert "fc1.bias" in og.inspect(MODELS / "mlp.onnx", og.ALL).wrt
    with pytest.raises(og.UnknownNameError, match="input"):
        og.inspect(MODELS / "mlp.onnx", "inputt")


def test_zero_derivative_with_its_reason() -> None:
    report = og.inspect(parse("g (float[N] x) => (float[N] y) { r = Round(x) \n y = Add(r, x) }"))
    assert states(report) == {"Round": "zero", "Add": "rule"}
    assert report.ok
    assert "piecewise constant" in str(report)
    assert not report.unreached


def test_blocked_by_zero_derivatives() -> None:
    report = og.inspect(parse("g (float[N] x) => (float[N] y) { r = Floor(x) \n y = Neg(r) }"))
    assert states(report) == {"Floor": "zero"}
    assert report.unreached == ("x",)
    assert str(report).splitlines()[-1] == "No gradient reaches x."


def test_straight_through() -> None:
    model = parse(
        """g (float[2, 2] x) => (float[2, 2] y) <float s = {0.1}, int8 z = {0}> {
            q = QuantizeLinear(x, s, z)
            p = MatMulInteger(q, q)
            r = Cast<to = 1>(p)
            m = Transpose(q)
            t = Neg(m)
            d = DequantizeLinear(t, s, z)
            y = Add(r, d)
        }"""
    )
    assert states(og.inspect(model)) == {"QuantizeLinear": "zero"}
    report = og.inspect(model, straight_through=["QuantizeLinear"])
    through = dict.fromkeys(("QuantizeLinear", "MatMulInteger", "Cast", "Add"), "rule")
    assert states(report) == through | {"Neg": "zero"}
    assert not report.unreached
    (blocked,) = (row for row in report if row.operator == "Neg")
    assert blocked.reason == "takes rounded numbers for integers"
    report = og.inspect(model, of="d", straight_through=True)
    assert states(report)["Neg"] == "zero"
    assert report.unreached == ("x",)


RAMP = """
g (float[N] x) => (float[N] y) <float[N] u> {
    t = Tanh(x)
    u = com.acme.Ramp(t)
    y = Neg(u)
}"""


def test_an_operator_without_a_rule_is_listed_first(ramp: str) -> None:
    model = parse(RAMP, '"" : 21, "com.acme" : 1')
    report = og.inspect(model)
    assert not report.ok
    assert report.rows[0].operator == "Ramp"
    assert report.rows[0].state == "none"
    assert "not an operator of the standard" in report.rows[0].reason
    assert states(report) == {"Ramp": "none", "Tanh": "rule", "Neg": "rule"}
    assert not report.rows[0].reason.startswith("0")  # its operands have no names
    with pytest.raises(og.NoRuleError):
        og.gradient(model)
    og.elementwise(ramp, lambda op, x: x > 0)
    assert og.inspect(model).ok


def test_what_follows_an_operator_of_unknown_type() -> None:
    model = parse(
        "g (float[N] x) => (float[N] y) { u = com.acme.Ramp(x) y = Neg(u) }",
        '"" : 21, "com.acme" : 1',
    )
    reasons = {row.operator: row.reason for row in og.inspect(model)}
    assert reasons["Ramp"].startswith("not an operator of the standard")
    assert reasons["Neg"] == "the type of 'u' is unknown without a rule for what gives it"


def test_a_rule_that_refuses_this_node_is_found(ramp: str) -> None:
    model = parse(RAMP, '"" : 21, "com.acme" : 1')

    @og.rule(ramp, "x")
    def _(op, g, node):
        op.refuse("ramps of this kind have no derivative; take another")

    report = og.inspect(model)
    assert states(report) == {"Ramp": "none", "Tanh": "rule", "Neg": "rule"}
    assert "take another" in report.rows[0].reason
    assert report.rows[0].nodes[0] in str(report)
    with pytest.raises(og.NoRuleError, match="take another"):
        og.gradient(model)


def test_operators_within_branches_are_listed(ramp: str) -> None:
    model = parse(
        """
g (bool c, float[N] x) => (float[N] y) {
    y = If(c) <
        then_branch = t () => (float[N] a) { e = Exp(x) a = Floor(e) },
        else_branch = f () => (float[N] b) { b = com.acme.Ramp(x) }
    >
}""",
        '"" : 21, "com.acme" : 1',
    )
    report = og.inspect(model)
    assert states(report) == {"If": "none", "Floor": "zero", "Ramp": "none"}
    og.elementwise(ramp, lambda op, x: x > 0)
    assert states(og.inspect(model)) == {"If": "rule", "Floor": "zero", "Ramp": "rule"}


def test_the_table_is_aligned() -> None:
    lines = str(og.inspect(MODELS / "mlp.onnx")).splitlines()
    column = lines[0].index("state")
    assert all(line[column - 2 : column] == "  " for line in lines[:-1])
    assert lines[-1] == "Can be differentiated."


def test_the_model_is_not_changed() -> None:
    model = onnx.load(MODELS / "mlp.onnx")
    before = model.SerializeToString(deterministic=True)
    og.inspect(model, og.ALL)
    assert model.SerializeToString(deterministic=True) == before
