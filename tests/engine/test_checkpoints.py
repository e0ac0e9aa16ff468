"""Checkpoints: the same gradients, and of the forward pass nothing but them is kept."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxgrad as og
from tests.oracle import runner
from tests.rules.test_rules import validate

RNG = np.random.default_rng(0)


def net(body: str, *weights: tuple[str, tuple[int, ...]], shape: str = "N, 4") -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 21]>
        net (double[{shape}] x) => (double[{shape}] y) {{ {body} }}""")
    for name, size in weights:
        array = RNG.standard_normal(size)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def deep(layers: int = 8) -> onnx.ModelProto:
    """Layers of a product, a bias, a Tanh and a shortcut."""
    body = "h0 = Identity(x)"
    for k in range(layers):
        body += f" p{k} = MatMul(h{k}, w{k}) a{k} = Add(p{k}, b{k}) t{k} = Tanh(a{k})"
        body += f" h{k + 1} = Add(h{k}, t{k})"
    weights = [(f"w{k}", (4, 4)) for k in range(layers)] + [(f"b{k}", (4,)) for k in range(layers)]
    return net(f"{body} y = Identity(h{layers})", *weights)


NETS = {
    "deep": deep(),
    "normalised": net(
        "a = MatMul(x, w) h = LayerNormalization(a, s) t = Sigmoid(h) u = Mul(t, h) "
        "v = MatMul(u, w) p = Softmax(v) y = Mul(p, v)",
        ("w", (4, 4)),
        ("s", (4,)),
    ),
    "branches": net(
        """a = MatMul(x, w) m = ReduceMax <keepdims = 0> (a)
        zero = Constant <value = double {0}> () c = Greater(m, zero)
        h = If (c) <then_branch = t () => (double[N, 4] p) { p = Exp(a) },
                    else_branch = e () => (double[N, 4] q) { q = Neg(a) }>
        s = Sin(h) y = Mul(s, s)""",
        ("w", (4, 4)),
    ),
    "convolutions": net(
        "a = Conv <pads = [1, 1, 1, 1]> (x, w) b = Relu(a) c = Conv <pads = [1, 1, 1, 1]> (b, w) "
        "d = Add(b, c) e = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (d) y = Mul(e, d)",
        ("w", (2, 2, 3, 3)),
        shape="N, 2, 5, 4",
    ),
}


def feeds(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    size = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": RNG.standard_normal(size)}


def assert_equal_gradients(model: onnx.ModelProto, checkpoints: object, **options: object) -> None:
    given = feeds(model)
    plain = og.gradient(model, og.ALL, **options)
    lean = og.gradient(model, og.ALL, checkpoints=checkpoints, **options)
    validate(lean)
    for a, b in zip(runner(lean)(given), runner(plain)(given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_the_gradients_are_the_same(name):
    assert_equal_gradients(NETS[name], True)


@pytest.mark.parametrize("names", [["h4"], ["h2", "a5"], ["x"], "t3"], ids=str)
def test_named_checkpoints(names):
    assert_equal_gradients(deep(), names)


def test_second_order():
    model = NETS["normalised"]
    twice = [
        og.gradient(og.gradient(model, "x", forward=False, checkpoints=c), "x", checkpoints=c)
        for c in (False, True)
    ]
    given = feeds(model)
    for a, b in zip(runner(twice[0])(given), runner(twice[1])(given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def kept(model: onnx.ModelProto, built: onnx.ModelProto) -> set[str]:
    """The inner values of the forward pass that nodes of the backward pass use."""
    own = {n.name for n in built.graph.node} & {n.name for n in model.graph.node}
    made = {o for n in built.graph.node if n.name in own for o in n.output} - {"y"}
    return {i for n in built.graph.node if n.name not in own for i in n.input if i in made}


def test_only_checkpoints_are_kept():
    model = deep()
    for k, node in enumerate(model.graph.node):
        node.name = f"node{k}"
    assert len(kept(model, og.gradient(model, og.ALL))) >= 15
    assert kept(model, og.gradient(model, og.ALL, checkpoints=["h3", "h6"])) == {"h3", "h6"}
    chosen = kept(model, og.gradient(model, og.ALL, checkpoints=True))
    assert 3 <= len(chosen) <= 8
    assert all(name.startswith("h") for name in chosen)  # where one tensor alone crosses


def test_nothing_runs_again_before_its_cotangent_is_there():
    """Every node that is computed again depends on the seed, apart from what weights alone give."""
    built = og.gradient(deep(), og.ALL, ograd=True, checkpoints=["h3", "h6"])
    after = {"y_ograd"}
    for node in built.graph.node:
        if after & set(node.input):
            after.update(node.output)
    again = [n for n in built.graph.node if "/again" in n.name]
    assert len(again) >= 20
    assert all(set(n.output) <= after for n in again)


def test_random_numbers_are_drawn_once():
    model = net(
        "a = MatMul(x, w) t = Constant <value = bool {1}> () "
        "r = Constant <value = double {0.5}> () d = Dropout <seed = 1> (a, r, t) "
        "b = Sin(d) y = Mul(b, d)",
        ("w", (4, 4)),
    )
    built = og.gradient(model, og.ALL, checkpoints=["a"])
    assert [n.op_type for n in built.graph.node].count("Dropout") == 1


def test_straight_through_copies():
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        net (float[N, 4] x) => (float[N, 4] y)
        <float s = {0.1}, int8 z = {0}, float[4] w = {1, -2, 3, 0.5}> {
            a = Mul(x, w)
            q = QuantizeLinear(a, s, z)
            d = DequantizeLinear(q, s, z)
            r = Round(d)
            y = Mul(r, d)
        }""")
    given = {"x": RNG.standard_normal((3, 4)).astype(np.float32)}
    plain, lean = (
        og.gradient(model, ["x", "w"], straight_through=True, checkpoints=c) for c in (False, ["a"])
    )
    for a, b in zip(runner(lean)(given), runner(plain)(given), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    again = [n.op_type for n in lean.graph.node if "/again" in n.name]
    assert "DequantizeLinear" in again  # of the integers, which are kept


def test_an_unknown_checkpoint():
    with pytest.raises(og.UnknownNameError, match="h44"):
        og.gradient(deep(), checkpoints=["h44"])


BUDGETED = net(
    "a = MatMul(x, w0) b = Tanh(a) r = Reshape(b, size) c = MatMul(r, w1) d = Softmax(c) "
    "e = Mul(d, c) f = MatMul(e, w2) h = Sigmoid(f) i = MatMul(h, w3) j = Sin(i) y = Mul(j, i)",
    *((f"w{k}", (64, 64)) for k in range(4)),
    shape="N, 64",
)
BUDGETED.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, -1]), "size"))
ROWS = 256
TENSOR = 8 * 64 * ROWS  # bytes
EXAMPLE = np.zeros((ROWS, 64))


def bytes_kept(built: onnx.ModelProto) -> int:
    """The bytes of the values of the forward pass that the backward pass reads, from the file."""
    own = {o for n in BUDGETED.graph.node for o in n.output} - {"y"}
    later = [n for n in built.graph.node if not own & set(n.output)]
    return TENSOR * len({i for n in later for i in n.input} & own)


def test_a_budget_keeps_what_fits():
    """The more bytes there are, the fewer nodes run again; never is more kept than fits."""
    again = []
    for tensors in (9, 7, 6, 5, 4):
        budget = tensors * TENSOR
        built = og.gradient(BUDGETED, og.ALL, checkpoints=budget, example=EXAMPLE)
        again.append(sum("/again" in n.name for n in built.graph.node))
        assert bytes_kept(built) <= budget
    assert again[0] == 0  # b, r, c, d, e, h, i and j, and r takes no memory of its own
    assert again == sorted(again) and again[-1] >= 3


@pytest.mark.parametrize("given", [4 * TENSOR, f"{4 * TENSOR / 2**20} MiB", "0.53mb"], ids=str)
def test_a_budget_gives_the_same_gradients(given):
    assert_equal_gradients(BUDGETED, given, example=EXAMPLE)


def test_a_budget_that_cannot_be_met():
    with pytest.raises(og.ArgumentError, match="The smallest budget") as refusal:
        og.gradient(BUDGETED, og.ALL, checkpoints="1kB", example=EXAMPLE)
    smallest = int(
        re.search(r"smallest budget is ([\d,]+)", str(refusal.value))[1].replace(",", "")
    )
    assert_equal_gradients(BUDGETED, smallest, example=EXAMPLE)
    with pytest.raises(og.ArgumentError, match="smallest"):
        og.gradient(BUDGETED, og.ALL, checkpoints=smallest - 1, example=EXAMPLE)


def test_a_budget_of_symbolic_sizes_needs_an_example():
    with pytest.raises(og.ArgumentError, match=r"the shape of .* example="):
        og.gradient(BUDGETED, og.ALL, checkpoints="1MB")
    with pytest.raises(og.ArgumentError, match="positive"):
        og.gradient(BUDGETED, og.ALL, checkpoints=0)
    static = onnx.ModelProto()
    static.CopyFrom(BUDGETED)
    for value in (static.graph.input[0], static.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = ROWS
    texts = [
        og.gradient(m, og.ALL, checkpoints=4 * TENSOR, **o).graph.node
        for m, o in ((static, {}), (BUDGETED, {"example": EXAMPLE}))
    ]
    again = [{n.name for n in nodes if "/again" in n.name} for nodes in texts]
    assert again[0] == again[1]


def test_a_tensor_of_a_budgets_name_is_a_tensor():
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["": 21]>
        net (double[N] x) => (double[N] y) { a = Sin(x) b = Sin(a) y = Mul(b, b) }""")
    for node in model.graph.node:
        node.input[:] = ["1MB" if i == "a" else i for i in node.input]
        node.output[:] = ["1MB" if o == "a" else o for o in node.output]
    built = og.gradient(model, checkpoints="1MB")
    assert any("/again" in n.name for n in built.graph.node)


@pytest.mark.skipif(sys.platform != "linux", reason="The peak is read from /proc")
def test_the_measured_peak_is_lower(tmp_path):
    """Beyond what the session itself takes, a run of 16 layers with a budget needs less."""
    layers, size = 16, 2**13
    model = deep(layers)
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.DOUBLE, [size, 32]))
    del model.graph.initializer[:]
    for k in range(layers):
        for name, shape in ((f"w{k}", (32, 32)), (f"b{k}", (32,))):
            array = RNG.standard_normal(shape) / 8
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    budget = 10 * 8 * 32 * size
    peaks = []
    for name, given in (("all", False), ("budget", budget)):
        file = str(tmp_path / f"{name}.onnx")
        onnx.save(og.gradient(model, og.ALL, checkpoints=given), file)
        peaks.append(int(subprocess.check_output([sys.executable, "-c", PEAK, file])))
    whole, lean = peaks
    assert whole > 2 * layers * 8 * 32 * size  # a Tanh and a sum of each layer
    assert lean < whole - (2 * layers - 10 - 4) * 8 * 32 * size
    results = [np.load(tmp_path / f"{name}.onnx.npz") for name in ("all", "budget")]
    for name in results[0].files:
        np.testing.assert_allclose(results[1][name], results[0][name], rtol=1e-9, atol=1e-9)


# Prints how many bytes more a process takes at most after a run than before it.
PEAK = """
import sys, numpy as np, onnxruntime
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
options = onnxruntime.SessionOptions()
options.enable_mem_pattern, options.intra_op_num_threads = False, 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(x,) = session.get_inputs()
feeds = {x.name: np.random.default_rng(0).standard_normal(x.shape)}
before = peak()
results = session.run(None, feeds)
print(peak() - before)
np.savez(sys.argv[1] + ".npz", *results)
"""


def test_filters_are_not_left_to_the_end():
    """A runtime that goes back from the file's last nodes finds each weight's gradient in time."""
    built = ir.from_proto(og.gradient(deep(), og.ALL))
    names = json.loads(built.metadata_props["onnxgrad.gradients"])
    order, seen = [], set()
    for node in reversed(built.graph):  # the runtime's walk, from what nothing else uses
        stack = [] if any(v.uses() for v in node.outputs) else [node]
        while stack:
            n = stack[-1]
            todo = [p for v in n.inputs if v and (p := v.producer()) and p not in seen]
            if todo:
                stack.extend(todo)
                continue
            stack.pop()
            if n not in seen:
                seen.add(n)
                order += [v.name for v in n.outputs]
    place = {name: k for k, name in enumerate(order)}
    assert place[names["w7"]] < place[names["w0"]]
    assert place[names["w7"]] < 0.75 * len(order) < place[names["w0"]]
