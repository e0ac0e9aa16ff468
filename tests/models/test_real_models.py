"""Real models as their packages ship them: gradients with respect to every input and weight.

PyTorch reads each file a second time (torch_net.py) and gives all gradients by its autograd, for a
random output gradient. At a kink both sides take the same one-sided derivative. Where a unit lies
within rounding of a kink, two runtimes in single precision can fall on different sides of it; that
moves a gradient by the share of one unit of thousands, well below TOLERANCE, while a rule that is
wrong by one per cent does not go unseen (test_a_planted_error_is_seen).

`make real-models` installs the packages; the files of those that are missing are skipped.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxgrad as og
from onnxgrad.declare import registry
from onnxgrad.declare.registry import lookup
from onnxgrad.emit.tensor import Tensor
from tests.oracle import accept
from tests.real_models import BY_NAME, CASES, Array, Case

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: make torch")
torch.set_num_threads(1)  # as many as the sessions have

from tests.torch_net import Net  # noqa: E402

# Relative, in the norm of each gradient.
TOLERANCE = 2e-3


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def metadata(model: onnx.ModelProto, key: str) -> dict[str, str]:
    return json.loads(next(p.value for p in model.metadata_props if p.key == f"onnxgrad.{key}"))


def errors(case: Case, wrt: object = og.ALL) -> dict[str, tuple[float, float]]:
    """By tensor: by how much the gradients differ, and the norm of PyTorch's."""
    model, feeds = case.model(), case.values()
    grad = og.gradient(model, wrt, of=case.of or None, ograd=True)
    accept(grad)
    assert {opset.domain for opset in grad.opset_import} == {""}
    names, ograds = metadata(grad, "gradients"), metadata(grad, "ograds")
    net = Net(model, torch.float32)
    values, rng = net.run(feeds, list(names)), np.random.default_rng(1)
    seeds = {y: rng.standard_normal(values[y].shape).astype(np.float32) for y in ograds}
    imposed = {ograds[y]: seed for y, seed in seeds.items()}
    found = session(grad).run([*names.values()], feeds | imposed)
    wanted = net.gradients(seeds)
    return {name: _distance(a, wanted[name]) for name, a in zip(names, found, strict=True)}


def _distance(a: Array, b: Array) -> tuple[float, float]:
    """The norm of a - b and that of b; both are no numbers at the same places."""
    b = np.broadcast_to(b, a.shape)
    defined = ~np.isnan(b)  # an exponent has no derivative where the base is negative
    assert np.array_equal(np.isnan(a), ~defined)
    return float(np.linalg.norm((a - b)[defined])), float(np.linalg.norm(b[defined]))


def wrong(case: Case, wrt: object = og.ALL) -> list[str]:
    """The tensors whose gradients are not PyTorch's."""
    return [
        name
        for name, (error, norm) in errors(case, wrt).items()
        if not error <= TOLERANCE * (1.0 if name in case.zero else norm)
    ]


@pytest.mark.parametrize("case", [case for case in CASES if not case.twin], ids=str)
def test_gradients_are_those_of_pytorch(case: Case) -> None:
    found = errors(case)
    inputs = {port.name for port in case.model().graph.input}
    moved = [name for name, (_, norm) in found.items() if norm > 0]
    assert any(name in inputs for name in moved)
    assert sum(name not in inputs for name in moved) >= 3
    for name, (error, norm) in found.items():
        assert error <= TOLERANCE * (1.0 if name in case.zero else norm), name


@pytest.mark.parametrize("case", {case.file: case for case in CASES}.values(), ids=str)
def test_inspect_agrees(case: Case) -> None:
    """Every file is differentiated, so nothing on the paths is without a rule."""
    report = og.inspect(case.path(), og.ALL)
    assert report.ok, str(report)
    assert set(report.unreached) < set(report.wrt)


PLANTED = [
    ("rnet", "Conv", "X"),
    ("rnet", "Conv", "W"),
    ("rnet", "Conv", "B"),
    ("rnet", "PRelu", "X"),
    ("rnet", "PRelu", "slope"),
    ("rnet", "MaxPool", "X"),
    ("rnet", "MatMul", "A"),
    ("rnet", "MatMul", "B"),
    ("rnet", "Softmax", "input"),
    ("silero_vad_v6", "LSTM", ""),
    ("silero_vad_v6", "Pow", "X"),
    ("silero_vad_v6", "Sqrt", "X"),
    ("silero_vad_v6", "Slice", "data"),
    ("silero_vad_v6", "Pad", "data"),
]


@pytest.mark.parametrize(("name", "op_type", "operand"), PLANTED)
def test_a_planted_error_is_seen(
    name: str, op_type: str, operand: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, entry = BY_NAME[name], lookup("", op_type)
    assert entry is not None
    rule, parameters = entry.functions[operand]

    def planted(*arguments: object) -> object:
        g = rule(*arguments)
        return g * 1.01 if isinstance(g, Tensor) else {k: t * 1.01 for k, t in g.items()}

    assert not wrong(case)
    monkeypatch.setitem(entry.functions, operand, (planted, parameters))
    assert wrong(case)


def test_tensors_within_the_net() -> None:
    """From one inner tensor to another, past a kink-free part: names with slashes and dots."""
    case = BY_NAME["silero_vad_16k_sequence"]
    weight, inner, of = "encoder.3.weight", "/Relu_2_output_0", "/Transpose_output_0"
    grad = og.gradient(case.path(), [inner, weight], of=of, ograd=True, forward=False)
    assert [o.name for o in grad.graph.output] == [f"{inner}_grad", f"{weight}_grad"]
    assert not any(node.op_type == "LSTM" for node in grad.graph.node)
    case = dataclasses.replace(case, of=(of,))
    assert not wrong(case, [inner, weight])


def test_one_of_two_outputs() -> None:
    """The means of the classes reach the other output by their shape alone."""
    path, only = BY_NAME["best_v2_carbons"].path(), {"model._aa_means", "onnx::Mul_768"}
    assert og.inspect(path, og.ALL, of="pred_mean").unreached == ()
    assert set(og.inspect(path, og.ALL, of="pred_logvar").unreached) == only
    with pytest.raises(og.UnreachableError, match="zero derivative: operator Shape, node"):
        og.gradient(path, "model._aa_means", of="pred_logvar")


@pytest.mark.parametrize(
    ("name", "position", "tensor"),
    [
        ("plcmos_v2", ["in_blocks", 0, "conv1", "weight"], "in_blocks.0.conv1.weight"),
        ("plcmos_v2", ["Conv_0", "W"], "in_blocks.0.conv1.weight"),
        ("plcmos_v2", [0, "B"], "in_blocks.0.conv1.bias"),
        ("best_v2_carbons", ["/input_proj/input_proj.0/Gemm", "C"], "model.input_proj.0.bias"),
        ("onet", ["dense_5", "kernel:0"], "dense_5/kernel:0"),
        ("onet", ["dense_5", "B"], "dense_5/kernel:0"),
        ("ch_PP-OCRv4_rec_infer", ["linear_85", "w_0"], "linear_85.w_0"),  # in a Constant node
    ],
)
def test_positions_in_the_net(name: str, position: list, tensor: str) -> None:
    grad = og.gradient(BY_NAME[name].path(), [position], ograd=True, forward=False)
    assert list(metadata(grad, "gradients")) == [tensor]


def test_whole_numbers_have_no_gradient() -> None:
    with pytest.raises(og.ArgumentError, match="INT64"):
        og.gradient(BY_NAME["best_v2_carbons"].path(), "element")


@pytest.mark.parametrize(
    ("name", "of", "weights"),
    [
        ("pnet", None, ["conv2d_4/kernel:0", "p_re_lu_initializer_8"]),
        ("best_v2_carbons", "/Add_1_output_0", ["model._aa_means", "model.input_proj.0.weight"]),
        ("silero_vad_16k_sequence", None, ["onnx::LSTM_211", "encoder.3.weight"]),
    ],
)
def test_finite_differences_in_double_precision(
    name: str, of: str | None, weights: list[str]
) -> None:
    """An oracle of another kind: the net itself, moved along two directions per tensor."""
    case = BY_NAME[name]
    names = [port.name for port in case.model().graph.input if port.name in ("h", "pos")]
    report = og.check(case.path(), case.values(), [*names, *weights], of=of, ograd=True)
    assert all(row.ok for row in report.rows), str(report)
    assert "differences in float64" in report.method


def test_an_operator_without_a_rule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in these files is refused any more, so a rule is taken away."""
    path = BY_NAME["silero_vad_16k_sequence"].path()
    monkeypatch.delitem(registry._TABLE, ("", "LSTM"))
    with pytest.raises(og.NoRuleError, match=r"LSTM, node '/recurrent/LSTM'.* Path: 'input'"):
        og.gradient(path, "input")
    report = og.inspect(path, "input")
    refused = [row for row in report if row.state == "none"]
    assert not report.ok
    assert [(row.operator, row.nodes) for row in refused] == [("LSTM", ("/recurrent/LSTM",))]
    behind = og.gradient(path, "/stft/Conv_output_0", of="/Transpose_output_0")  # off its path
    assert metadata(behind, "gradients")


@pytest.mark.parametrize("name", ["silero_vad_v6", "plcmos_v2", "best_v2_carbons"])
def test_second_order(name: str) -> None:
    """The gradient of the sum of a gradient: recurrent, convolutional, with attention."""
    case = BY_NAME[name]
    model, feeds = case.model(), case.values()
    x = next(
        port.name
        for port in model.graph.input
        if port.name in ("input", "rater_embed", "edge_dist")
    )
    first = og.gradient(model, x, ograd=True, forward=False)
    ograds = metadata(first, "ograds")
    second = og.gradient(first, x, forward=False)
    net = Net(model, torch.float64)
    values, rng = net.run(feeds, [x]), np.random.default_rng(1)
    seeds = {y: rng.standard_normal(values[y].shape).astype(np.float32) for y in ograds}
    (found,) = session(second).run(None, feeds | {ograds[y]: s for y, s in seeds.items()})
    total = sum((values[y] * torch.tensor(s)).nansum() for y, s in seeds.items())
    (gradient,) = torch.autograd.grad(total, values[x], create_graph=True)
    (wanted,) = torch.autograd.grad(gradient.sum(), values[x])
    assert wanted.norm() > 0
    assert np.linalg.norm(found - wanted.numpy()) <= TOLERANCE * float(wanted.norm())
