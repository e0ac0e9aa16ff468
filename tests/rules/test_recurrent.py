"""RNN, GRU and LSTM beyond the table of samples: what the backward pass holds, what is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad.emit import targets
from tests.oracle import Feeds, close, reference, runner
from tests.rules.test_rules import floats, sample_model, vjp_error
from tests.samples import Sample, sample_id
from tests.samples.recurrent import SAMPLES, recurrent


def bodies(model: onnx.ModelProto) -> list[Counter[str]]:
    """The operators within each Scan of a model."""
    scans = [n for n in model.graph.node if n.op_type == "Scan"]
    graphs = [next(a.g for a in n.attribute if a.name == "body") for n in scans]
    return [Counter(n.op_type for n in g.node) for g in graphs]


@pytest.mark.parametrize(
    ("sample", "sizes"),
    [
        (recurrent("RNN"), [2]),
        (recurrent("GRU"), [5]),
        (recurrent("GRU", linear_before_reset=1), [4]),
        (recurrent("LSTM"), [2, 6]),
        (recurrent("LSTM", direction="bidirectional"), [2, 6, 2, 6]),
        (recurrent("LSTM", [3, 3]), [2, 6]),
    ],
    ids=str,
)
def test_what_a_step_costs(sample: Sample, sizes: list[int]) -> None:
    """The forward node stays, alone; a step of its backward pass is a few nodes, one product."""
    model, _ = sample_model(sample, symbolic=False, fed=False)
    backward = og.gradient(model, floats(sample), of="y0", ograd=True)
    assert sum(n.op_type == sample.op for n in backward.graph.node) == 1
    found = bodies(backward)
    assert [body.total() for body in found] == sizes
    products = 2 if sizes == [5] else 1  # the reset state of a GRU takes a second one
    assert all(b["Gemm"] + b["MatMul"] == products for b in found[len(found) > 1 :: 2])


def test_full_lengths_need_no_masks() -> None:
    """Lengths known to be all of the sequence are as good as none."""
    plain, _ = sample_model(recurrent("LSTM"), symbolic=False, fed=False)
    full, _ = sample_model(recurrent("LSTM", [3, 3]), symbolic=False, fed=False)
    kinds = [Counter(n.op_type for n in og.gradient(m).graph.node) for m in (plain, full)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("used", [["Y_h"], ["Y_c"], ["Y_h", "Y_c"]], ids="+".join)
def test_absent_outputs(used: list[str]) -> None:
    """The rule needs Y, and asks a node for it that does not give it out."""
    model, feeds = sample_model(recurrent("LSTM"), symbolic=True, fed=False)
    for k, name in enumerate(["Y", "Y_h", "Y_c"]):
        if name not in used:
            model.graph.node[0].output[k] = ""
    kept = [o for o in model.graph.output if o.name in model.graph.node[0].output]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    backward = og.gradient(model, list(feeds), ograd=True)
    rng = np.random.default_rng(0)
    analytic, numeric = vjp_error(model, backward, feeds, rng, reference)
    assert close(analytic, numeric, 1e-6)


def test_one_file_for_all_lengths() -> None:
    """Steps and batch are those of the run; second order on onnxruntime too."""
    sample = recurrent("GRU", direction="bidirectional")
    model, feeds = sample_model(sample, symbolic=True, fed=False)
    single = og.gradient(float32(model), ["x0", "x1"], of="y0")
    second = og.gradient(single, ["x0", "x2"], of=["x0_grad", "x1_grad"])
    double = og.gradient(og.gradient(model, ["x0", "x1"], of="y0"), ["x0", "x2"],
                         of=["x0_grad", "x1_grad"])  # fmt: skip
    rng = np.random.default_rng(0)
    for steps, batch in ((1, 3), (5, 1)):
        more = {
            "x0": rng.standard_normal((steps, batch, 3)),
            "x5": rng.standard_normal((2, batch, 2)),
        }
        own = feeds | more
        narrow: Feeds = {k: v.astype(np.float32) for k, v in own.items()}
        for got, want in zip(runner(second)(narrow), reference(double)(own), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float32, the only dtype that onnxruntime has for these operators."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for info in [*copy.graph.input, *copy.graph.output]:
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return copy


def test_inside_a_branch() -> None:
    """As in speech models, which hold one LSTM for each sampling rate."""
    node = "y, h, c = LSTM <hidden_size = 2> (x, w, r)"
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 21]>
        g (double[T,N,3] x, bool b, double[1,8,3] w, double[1,8,2] r) => (double[1,N,2] o) {{
          o = If <
            then_branch = t () => (double[1,N,2] c) {{ {node} }},
            else_branch = e () => (double[1,N,2] z) {{ {node.replace("y, h, c", "y2, z, c2")} }}
          > (b)
        }}"""
    )
    rng = np.random.default_rng(0)
    for branch in (True, False):
        feeds = {
            "x": rng.standard_normal((4, 2, 3)),
            "b": np.array(branch),
            "w": rng.standard_normal((1, 8, 3)),
            "r": rng.standard_normal((1, 8, 2)),
        }
        backward = og.gradient(model, ["x", "w", "r"], ograd=True)
        analytic, numeric = vjp_error(model, backward, feeds, rng, reference)
        assert close(analytic, numeric, 1e-6)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"activations": ["Affine"]}, "activation_alpha"),
        ({"activations": ["HardSigmoid"], "activation_alpha": [0.2]}, "activation_beta"),
        ({"activations": ["Gelu"]}, "no activation function 'Gelu'"),
    ],
)
def test_refused(attributes: dict[str, object], message: str) -> None:
    """Where what a runtime computes is not known: a default that they take differently."""
    model, _ = sample_model(recurrent("RNN", **attributes), symbolic=False, fed=False)
    with pytest.raises(og.NoRuleError, match=message):
        og.gradient(model)


def through_tanh(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The model with the tanh of each output besides; their names."""
    more = []
    for out in list(model.graph.output):
        z = onnx.ValueInfoProto.FromString(out.SerializeToString())
        z.name = f"{out.name}_tanh"
        model.graph.node.append(onnx.helper.make_node("Tanh", [out.name], [z.name]))
        model.graph.output.append(z)
        more.append(z.name)
    return model, more


STEPPED = [s for s in SAMPLES if s.op in ("LSTM", "GRU") and "lens=None" in s.note]


@pytest.mark.parametrize("sample", STEPPED, ids=sample_id)
def test_forward_pass_by_steps(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Scan takes the place of the node, with the same outputs under the same names."""
    stepped = dataclasses.replace(targets.target_of("cpu"), scan_from_batch=1)
    monkeypatch.setitem(targets._TARGETS, "cpu", stepped)
    model, feeds = sample_model(sample, symbolic=False, fed=False)
    model, of = through_tanh(model)
    backward = og.gradient(model, floats(sample), of=of, ograd=True)
    assert sample.op not in {n.op_type for n in backward.graph.node}
    names = [o.name for o in model.graph.output]
    assert [o.name for o in backward.graph.output][: len(names)] == names
    # Attributes such as the slope 0.2 of a HardSigmoid are float32 in one of the two.
    tolerance = 1e-7 if "activations" in sample.attributes else 1e-12
    want = dict(zip(names, reference(model)(feeds), strict=True))
    seeds = {f"{z}_ograd": np.zeros_like(want[z]) for z in of}
    for a, b in zip(reference(backward)(feeds | seeds), want.values(), strict=False):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    rng = np.random.default_rng(0)
    analytic, numeric = vjp_error(model, backward, feeds, rng, reference)
    assert close(analytic, numeric, 1e-6)


def test_by_steps_from_a_batch_of_eight() -> None:
    """Where the batch is known and large; the node stays on a target that it is fast on."""
    for batch, target, stays in ((8, "cpu", False), (7, "cpu", True), (8, "cuda", True)):
        net = onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["" : 21]>
            g (float[5,{batch},3] x, float[1,8,3] w, float[1,8,2] r) => (float[5,1,{batch},2] z) {{
              y = LSTM <hidden_size = 2> (x, w, r)
              z = Tanh(y)
            }}"""
        )
        built = og.gradient(net, ["x", "w", "r"], target=target)
        assert any(n.op_type == "LSTM" for n in built.graph.node) is stays


def test_by_steps_at_the_ends_of_the_path() -> None:
    """Tensors that are differentiated, or with respect to, stay what they are."""
    net = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[5,8,3] x, float[1,8,3] w, float[1,8,2] r) => (float[5,1,8,2] z, float[1,8,2] h) {
          y, h = LSTM <hidden_size = 2> (x, w, r)
          z = Tanh(y)
        }"""
    )
    rng = np.random.default_rng(0)
    feeds = {"x": (5, 8, 3), "w": (1, 8, 3), "r": (1, 8, 2)}
    feeds = {k: rng.standard_normal(s).astype(np.float32) for k, s in feeds.items()}
    plain = {}
    for name, of, wrt in (("all", None, ["x", "w"]), ("inner", "z", ["x", "y"])):
        for target in ("cpu", "cuda"):
            built = og.gradient(net, wrt, of=of, target=target)
            names = [o.name for o in built.graph.output]
            found = dict(zip(names, runner(built)(feeds), strict=True))
            assert set(found) == {"z", "h", *(f"{w}_grad" for w in wrt)}
            for key, value in found.items():
                want = plain.setdefault((name, key), value)
                np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-5)
