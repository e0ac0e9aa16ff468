"""The standard's training operators, run by onnxruntime once they are plain operators."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnx.reference
import pytest
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases

import onnxgrad as og
from onnxgrad import cli
from tests.oracle import directional, runner

HEAD = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.preview.training" : 1]>\n'
T = "ai.onnx.preview.training"
SIMPLE = Path(onnx.backend.test.__file__).parent / "data" / "simple"
for _name in ("adam", "adagrad", "momentum"):  # importing one of onnx's modules registers its cases
    importlib.import_module(f"{node_cases.__name__}.{_name}")
NODE_CASES = {
    case.name: case
    for case in node_cases._NodeTestCases
    if case.model.graph.node[0].op_type in ("Adam", "Adagrad", "Momentum")
}


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(HEAD + text.replace("T.", f"{T}."))


def run(source: onnx.ModelProto, **feeds: Any) -> dict[str, np.ndarray]:
    """The outputs of the lowered model, which must be valid and hold plain operators only."""
    lowered = og.lower(source)
    onnx.checker.check_model(lowered, full_check=True)
    assert [o.domain for o in lowered.opset_import] == [""]
    assert [o.name for o in lowered.graph.output] == [o.name for o in source.graph.output]
    arrays = {k: v if isinstance(v, np.ndarray) else np.float32(v) for k, v in feeds.items()}
    found = runner(lowered)({k: np.asarray(v) for k, v in arrays.items()})
    return dict(zip((o.name for o in source.graph.output), found, strict=True))


# -- onnx's own tests ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_gradient_of_add", "test_gradient_of_add_and_mul"])
def test_gradients_of_the_standard(name: str) -> None:
    path = SIMPLE / name / "model.onnx"
    data = path.parent / "test_data_set_0"

    def read(kind: str) -> list[np.ndarray]:
        files = sorted(data.glob(f"{kind}_*.pb"))
        return [numpy_helper.to_array(onnx.load_tensor(file)) for file in files]

    source = onnx.load(path)
    feeds = dict(zip([i.name for i in source.graph.input], read("input"), strict=True))
    found = run(source, **feeds)
    for a, b in zip(found.values(), read("output"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_standard_has_tests_of_its_optimizers() -> None:
    names = {"adam", "adam_multiple", "adagrad", "adagrad_multiple"}
    names |= {"momentum", "momentum_multiple", "nesterov_momentum"}
    assert names <= {name.removeprefix("test_") for name in NODE_CASES}


@pytest.mark.parametrize("name", sorted(NODE_CASES))
def test_optimizers_of_the_standard(name: str) -> None:
    case = NODE_CASES[name]
    inputs, outputs = case.data_sets[0]
    feeds = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
    for a, b in zip(run(case.model, **feeds).values(), outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


# -- Gradient: what it names and what it is given --------------------------------------------------


def product(values: str, attributes: str = 'xs = ["a", "b"], y = "y"') -> onnx.ModelProto:
    """A Gradient of y = a² b at the given values."""
    return model(
        f"""g (float a, float b, float c) => (float da, float db) {{
          s = Mul(a, a)
          y = Mul(s, b)
          da, db = T.Gradient <{attributes}> ({values})
        }}"""
    )


@pytest.mark.parametrize(
    ("values", "da", "db"),
    [
        ("a, b", 2 * 2 * 3, 4),
        ("c, b", 2 * 5 * 3, 25),  # one tensor substituted
        ("a, c", 2 * 2 * 5, 4),
        ("b, a", 2 * 3 * 2, 9),  # exchanged
        ("c, c", 2 * 5 * 5, 25),  # one value for two independent variables
        ("a, a", 2 * 2 * 2, 4),  # one of them itself
    ],
)
def test_the_gradient_at_substituted_values(values: str, da: float, db: float) -> None:
    found = run(product(values), a=2, b=3, c=5)
    assert (found["da"], found["db"]) == (da, db)


def test_zs_hold_values_and_outputs_can_be_left_out() -> None:
    source = model(
        """g (float a, float b, float c) => (float da) {
          s = Mul(a, a)
          y = Mul(s, b)
          , da = T.Gradient <xs = ["b", "a"], zs = ["c"], y = "y"> (c, a, b)
        }"""
    )
    assert run(source, a=2, b=3, c=5)["da"] == 2 * 2 * 5
    source = model(
        """g (float a, float b, float c) => (float da) {
          s = Mul(a, a)
          y = Mul(s, b)
          da = T.Gradient <xs = ["a"], zs = ["b"], y = "y"> (a, c)
        }"""
    )
    assert run(source, a=2, b=3, c=5)["da"] == 2 * 2 * 5


def test_an_intermediate_tensor_at_a_value_of_its_own() -> None:
    """The documented case: H is cut from what computes it; y itself is at its old value."""
    source = model(
        """g (float w, float z, float h1) => (float y, float dh, float dz, float dh1) {
          h = Exp(w)
          p = Mul(h, h)
          y = Mul(p, z)
          dh, dz = T.Gradient <xs = ["h", "z"], y = "y"> (h, z)
          dh1 = T.Gradient <xs = ["h"], zs = ["z"], y = "y"> (h1, z)
        }"""
    )
    found, h = run(source, w=0.5, z=3, h1=7), np.exp(0.5)
    expected = {"y": h * h * 3, "dh": 2 * h * 3, "dz": h * h, "dh1": 2 * 7 * 3}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)


def test_a_value_that_the_named_part_uses_itself() -> None:
    """u is a constant of the function x * u, also where it is given as the value of x."""
    source = model(
        """g (float x, float u) => (float dx) {
          y = Mul(x, u)
          dx = T.Gradient <xs = ["x"], y = "y"> (u)
        }"""
    )
    assert run(source, x=2, u=3)["dx"] == 3


def test_a_value_of_another_size() -> None:
    source = model(
        """g (float[2,3] x, float[M,3] v, float[3] w) => (float[M,3] dx, float[3] dw) {
          p = Mul(x, w)
          s = ReduceMean <keepdims = 0> (p)
          dx, dw = T.Gradient <xs = ["x", "w"], y = "s"> (v, w)
        }"""
    )
    x, v = np.zeros((2, 3), np.float32), np.arange(12, dtype=np.float32).reshape(4, 3)
    w = np.array([1, 2, 3], np.float32)
    found = run(source, x=x, v=v, w=w)
    np.testing.assert_allclose(found["dx"], np.tile(w / 12, (4, 1)), rtol=1e-6)
    np.testing.assert_allclose(found["dw"], v.sum(0) / 12, rtol=1e-6)


@pytest.mark.parametrize("c", [True, False])
def test_a_branch_that_captures_what_is_substituted(c: bool) -> None:
    source = model(
        """g (float[2] x, float[M] v, bool c) => (float[M] dx) {
          y = If (c) <
            then_branch = t () => (float p) {
              s = Mul(x, x)
              p = ReduceSum <keepdims = 0> (s)
            },
            else_branch = e () => (float q) {
              m = ReduceMean <keepdims = 0> (x)
              q = Exp(m)
            }
          >
          dx = T.Gradient <xs = ["x"], y = "y"> (v)
        }"""
    )
    v = np.array([1, 2, 3], np.float32)
    found = run(source, x=np.zeros(2, np.float32), v=v, c=np.array(c))["dx"]
    np.testing.assert_allclose(found, 2 * v if c else np.full(3, np.exp(2) / 3), rtol=1e-6)


def test_what_the_transforms_give_for_a_net() -> None:
    """Weights in initializers can be named, and those that are not are constants."""
    text = """g (float[N,1,6,6] x, int64[N] label) => (float loss OUTPUTS)
        <float[2,1,3,3] w, float[32,4] f = {WEIGHTS}, float[4] b = {0.1, 0.2, 0.3, 0.4},
         int64[2] sizes = {0, 32}> {
      w = Constant <value = float[2,1,3,3] {KERNEL}> ()
      c = Conv(x, w)
      r = Tanh(c)
      k = Reshape(r, sizes)
      z = Gemm(k, f, b)
      loss, _ = SoftmaxCrossEntropyLoss(z, label)
      GRADIENT
    }"""
    rng = np.random.default_rng(3)
    for word, count in (("WEIGHTS", 128), ("KERNEL", 18)):
        text = text.replace(word, ", ".join(f"{v:.3f}" for v in rng.standard_normal(count)))
    call = 'dw, db = T.Gradient <xs = ["w", "b"], zs = ["x", "label"], y = "loss"> (w, b, x, label)'
    named = text.replace("OUTPUTS", ", float[2,1,3,3] dw, float[4] db").replace("GRADIENT", call)
    plain = model(text.replace("OUTPUTS", "").replace("GRADIENT", ""))
    x = rng.standard_normal((3, 1, 6, 6)).astype(np.float32)
    feeds = {"x": x, "label": np.array([0, 3, 1])}
    expected = runner(og.gradient(plain, ["w", "b"], of="loss"))(feeds)
    for a, b in zip(run(model(named), **feeds).values(), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("opset", [12, 17, onnx.defs.onnx_opset_version()])
def test_any_opset(opset: int) -> None:
    source = product("c, b")
    source.opset_import[0].version = opset
    lowered = og.lower(source)
    assert lowered.opset_import[0].version == max(18, opset)
    feeds = {n: np.array(v, np.float32) for n, v in (("a", 2), ("b", 3), ("c", 5))}
    assert onnx.reference.ReferenceEvaluator(lowered).run(None, feeds) == [30, 25]


def test_zero_where_y_does_not_depend_on_x_and_sums_of_elements() -> None:
    source = model(
        """g (float[N] x, float[2] z) => (float[N] dx, float[2] dz) {
          y = Mul(x, x)
          dx, dz = T.Gradient <xs = ["x", "z"], y = "y"> (x, z)
        }"""
    )
    found = run(source, x=np.array([1, 2, 3], np.float32), z=np.ones(2, np.float32))
    assert found["dx"].tolist() == [2, 4, 6]
    assert found["dz"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [("x, w", 6 * 2 * 3), ("w, w", 6 * 3 * 3), ("x, x", 6 * 2 * 2)],
)
def test_a_gradient_of_a_gradient(values: str, expected: float) -> None:
    """Of o = x³ w³ / 3 the inner one gives do/dw = x³ w², the outer one that of this in x and w."""
    source = model(
        f"""g (float x, float w) => (float ddx, float ddw) <float third = {{0.3333333333}}> {{
          p = Mul(x, w)
          q = Mul(p, p)
          r = Mul(q, p)
          o = Mul(r, third)
          ox, ow = T.Gradient <xs = ["x", "w"], y = "o"> (x, w)
          ddx, ddw = T.Gradient <xs = ["x", "w"], y = "ow"> ({values})
        }}"""
    )
    x, w = ({"x": 2.0, "w": 3.0}[v.strip()] for v in values.split(","))
    found = run(source, x=2, w=3)
    np.testing.assert_allclose(found["ddx"], 3 * x**2 * w**2, rtol=1e-5)
    np.testing.assert_allclose(found["ddw"], 2 * x**3 * w, rtol=1e-5)


def test_the_target_may_stand_behind_the_node_that_names_it() -> None:
    source = model(
        """g (float x) => (float dx) {
          dx = T.Gradient <xs = ["x"], y = "y"> (x)
          y = Mul(x, x)
        }"""
    )
    assert run(source, x=3)["dx"] == 6


def test_within_a_branch() -> None:
    source = model(
        """g (float x, float v, bool c) => (float d) {
          y = Mul(x, x)
          d = If (c) <
            then_branch = t () => (float p) { p = T.Gradient <xs = ["x"], y = "y"> (v) },
            else_branch = e () => (float q) {
              s = Mul(y, x)
              q = T.Gradient <xs = ["x"], y = "s"> (x)
            }
          >
        }"""
    )
    assert run(source, x=2, v=5, c=np.array(True))["d"] == 10
    assert run(source, x=2, v=5, c=np.array(False))["d"] == 3 * 4


def test_within_a_function() -> None:
    """The names are those of the function's own tensors."""
    text = """<ir_version: 10, opset_import: ["" : 21, "own" : 1, "T" : 1]>
      g (float a, float x) => (float d) { d = own.slope(a) }
      <domain: "own", opset_import: ["" : 21, "T" : 1]>
      slope (x) => (dx) {
        y = Mul(x, x)
        dx = T.Gradient <xs = ["x"], y = "y"> (x)
      }"""
    source = onnx.parser.parse_model(text.replace('"T"', f'"{T}"').replace("T.G", f"{T}.G"))
    assert run(source, a=4, x=1)["d"] == 8


# -- together, and differentiated ------------------------------------------------------------------

TRAINING_STEP = """g (float[2] x, float[2] v, float[2] h, float r, int64 t, float[2] s)
    => (float[2] x_new, float[2] v_new, float[2] h_new) {
  p = Mul(x, s)
  q = Mul(p, x)
  loss = ReduceSum <keepdims = 0> (q)
  dx = T.Gradient <xs = ["x"], zs = ["s"], y = "loss"> (x, s)
  x_new, v_new, h_new = T.Adam <alpha = 0.9, beta = 0.99, norm_coefficient = 0.1,
                                norm_coefficient_post = 0.2> (r, t, x, dx, v, h)
}"""
STEP_FEEDS = {
    "x": np.array([1.0, -2.0]),
    "v": np.array([0.1, 0.2]),
    "h": np.array([0.3, 0.5]),
    "r": np.array(0.01),
    "s": np.array([2.0, 3.0]),
}


@pytest.mark.parametrize("t", [0, 1, 7])
def test_a_step_of_training(t: int) -> None:
    """The shapes and dtypes of a Gradient's results are known to what follows it."""
    f = {k: v.astype(np.float32) for k, v in STEP_FEEDS.items()}
    g = 0.1 * f["x"] + 2 * f["x"] * f["s"]
    v, h = 0.9 * f["v"] + 0.1 * g, 0.99 * f["h"] + 0.01 * g * g
    r = f["r"] * np.sqrt(1 - 0.99**t) / (1 - 0.9**t) if t else f["r"]
    x = 0.8 * (f["x"] - r * v / (np.sqrt(h) + 1e-6))
    found = run(model(TRAINING_STEP), **f, t=np.array(t))
    for name, value in (("x_new", x), ("v_new", v), ("h_new", h)):
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


@pytest.mark.parametrize("t", [0, 3])
def test_a_step_of_training_has_a_gradient(t: int) -> None:
    """What a hyperparameter does to the trained weights; no need to lower first."""
    source = model(TRAINING_STEP.replace("float", "double"))
    names = list(STEP_FEEDS)
    feeds = STEP_FEEDS | {"t": np.array(t)}
    gradients = runner(og.gradient(source, names, of="x_new", forward=False))(feeds)
    assert all(np.isfinite(g).all() for g in gradients)
    rng = np.random.default_rng(1)
    directions = [rng.standard_normal(STEP_FEEDS[n].shape) for n in names]
    slope = directional(runner(og.lower(source)), feeds, names, directions, 1e-4)[0].sum()
    along = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    np.testing.assert_allclose(along, slope, rtol=1e-6)


@pytest.mark.parametrize("t", [0, 2])
@pytest.mark.parametrize("mode", ["standard", "nesterov"])
def test_momentum(mode: str, t: int) -> None:
    source = model(
        f"""g (double r, int64 t, float[2] x, double[3] z, float[2] g, double[3] k,
               float[2] v, double[3] u)
            => (float[2] a, double[3] b, float[2] c, double[3] d) {{
          a, b, c, d = T.Momentum <alpha = 0.5, beta = 0.25, norm_coefficient = 2.0,
                                   mode = "{mode}"> (r, t, x, z, g, k, v, u)
        }}"""
    )
    rng = np.random.default_rng(0)
    x, g, v = rng.standard_normal((3, 2)).astype(np.float32)
    z, k, u = rng.standard_normal((3, 3))
    lowered = og.lower(source)
    feeds = {"r": np.array(0.1), "t": np.array(t), "x": x, "z": z, "g": g, "k": k, "v": v, "u": u}
    a, b, c, d = runner(lowered)(feeds)
    for (x0, g0, v0), (x1, v1) in zip([(x, g, v), (z, k, u)], [(a, c), (b, d)], strict=True):
        slope = 2 * x0 + g0
        momentum = 0.5 * v0 + (0.25 if t else 1) * slope
        np.testing.assert_allclose(v1, momentum, rtol=1e-6)
        moved = slope + 0.5 * momentum if mode == "nesterov" else momentum
        np.testing.assert_allclose(x1, x0 - 0.1 * moved, rtol=1e-5)


def test_the_learning_rate_of_adagrad_decays() -> None:
    source = model(
        """g (float r, int64 t, float[1] x, float[1] g, float[1] h) => (float[1] y, float[1] k) {
          y, k = T.Adagrad <decay_factor = 0.5, epsilon = 0.0> (r, t, x, g, h)
        }"""
    )
    ones = {n: np.array([v], np.float32) for n, v in (("x", 1), ("g", 3), ("h", 16))}
    found = run(source, r=0.1, t=np.array(2), **ones)
    np.testing.assert_allclose(found["y"], [1 - 0.1 / 2 * 3 / 5], rtol=1e-6)
    assert found["k"] == [25]


def test_a_model_without_them_stays_what_it_is() -> None:
    source = model("g (float x) => (float y) { y = Exp(x) }")
    assert [n.op_type for n in og.lower(source).graph.node] == ["Exp"]


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(product("a, b"), source)
    monkeypatch.setattr(sys, "argv", ["onnxgrad", "lower", str(source), "-o", str(target)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "Wrote" in capsys.readouterr().out
    assert runner(onnx.load(target))({n: np.array(3, np.float32) for n in "abc"}) == [18, 9]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "values", "words"),
    [
        ('xs = ["a", "b"], y = "z"', "a, b", ["'z'", "no such tensor"]),
        ('xs = ["a", "q"], y = "y"', "a, b", ["'q'"]),
        ('xs = ["a", "s"], y = "y"', "a, b", ["'s'", "computed from"]),
        ('xs = ["a", "a"], y = "y"', "a, b", ["twice"]),
        ('xs = ["a", "b"], y = "y"', "a", ["a value for each"]),
        ('xs = ["a", "b"], y = "da"', "a, b", []),
    ],
)
def test_what_names_no_function_is_refused(attributes: str, values: str, words: list[str]) -> None:
    with pytest.raises(og.OnnxGradError) as error:
        og.lower(product(values, attributes))
    assert all(word in str(error.value) for word in words)


def test_an_operator_without_a_rule_is_named() -> None:
    source = model(
        """g (float[3] x) => (float[3] dx, float[3] z) <float[3] y> {
          y = own.Op(x)
          dx = T.Gradient <xs = ["x"], y = "y"> (x)
          z = Exp(x)
        }"""
    )
    source.opset_import.append(onnx.helper.make_opsetid("own", 1))
    with pytest.raises(og.NoRuleError, match="own::Op"):
        og.lower(source)
    with pytest.raises(og.NoRuleError, match="own::Op"):
        og.gradient(source, "x", of="dx")
    og.gradient(source, "x", of="z")  # it is not on the way


def test_operands_that_do_not_make_whole_tensors_are_refused() -> None:
    source = model(
        """g (float r, int64 t, float[1] x, float[1] g) => (float[1] y) {
          y = T.Adagrad (r, t, x, g)
        }"""
    )
    with pytest.raises(og.NoRuleError, match="3 operands"):
        og.lower(source)
