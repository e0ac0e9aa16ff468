"""What runtimes other than onnxruntime on the CPU lack, by what stands in a file.

Those of OpenVINO, tract, onnxruntime-web's WebGPU and the reference evaluator are measured, and
`make runtimes` holds them against what each runtime makes of 50 files. Those of TensorRT, DirectML
and CoreML are from their own lists of operators; nothing was run there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import onnx_ir as ir

from onnxgrad.emit.subgraphs import captures
from onnxgrad.graph import io
from onnxgrad.graph.constants import constant_of
from onnxgrad.graph.errors import ArgumentError, nearest
from onnxgrad.graph.facts import FLOATS, all_nodes, dims_of, subgraphs

Effect = Literal["is refused", "may be wrong", "runs on the CPU"]


@dataclass(frozen=True)
class Limit:
    """Something that a runtime lacks.

    Attributes:
        what: What of a file it is, in words.
        effect: What becomes of a file that has it.
        finds: Gives the names of the nodes, with their operators, or tensors that have it.
    """

    what: str
    effect: Effect
    finds: Callable[[ir.Model], list[str]]


@dataclass(frozen=True)
class Obstacle:
    """What of a file a runtime lacks, and where."""

    what: str
    effect: Effect
    where: tuple[str, ...]


def obstacles(model: Any, runtime: str) -> list[Obstacle]:
    """What a runtime is known to refuse of a file, or to get wrong.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        runtime: A key of `RUNTIMES`.

    Raises:
        ModelError: The model cannot be read.
        ArgumentError: Nothing is known of that runtime.
    """
    if runtime not in RUNTIMES:
        raise ArgumentError(
            f"Nothing is known of a runtime {runtime!r}.{nearest(runtime, RUNTIMES)} "
            f"Runtimes: {', '.join(RUNTIMES)}."
        )
    net = io.load(model)
    found = ((limit, tuple(limit.finds(net))) for limit in RUNTIMES[runtime])
    return [Obstacle(limit.what, limit.effect, where) for limit, where in found if where]


# -- what stands in a file -------------------------------------------------------------------------


def _nodes(applies: Callable[[ir.Node], bool]) -> Callable[[ir.Model], list[str]]:
    """Finds the nodes of the default domain that something applies to."""
    return lambda model: [_named(n) for n in all_nodes(model.graph) if not n.domain and applies(n)]


def _named(node: ir.Node) -> str:
    """A node's name and operator."""
    return f"{node.name} ({node.op_type})" if node.name else node.op_type


def _operators(*names: str) -> Callable[[ir.Model], list[str]]:
    """Finds operators by their names."""
    return _nodes(lambda n: n.op_type in names)


def _other_than(names: str) -> Callable[[ir.Model], list[str]]:
    """Finds operators that a list does not name."""
    listed = {*names.split(), "Constant"}
    return _nodes(lambda n: n.op_type not in listed)


def _ints(node: ir.Node, name: str) -> list[int]:
    given = node.attributes.get(name)
    return [] if given is None else list(given.as_ints())


def _is_reversed(node: ir.Node) -> bool:
    return node.op_type == "Scan" and any(
        any(_ints(node, f"scan_{side}_directions")) for side in ("input", "output")
    )


def _captures(node: ir.Node) -> bool:
    return node.op_type == "Scan" and bool(captures(node))


def _has_no_beta(node: ir.Node) -> bool:
    beta = node.attributes.get("beta") if node.op_type == "HardSigmoid" else None
    return beta is not None and beta.as_float() == 0


def _has_open_axes(node: ir.Node) -> bool:
    """Whether axes that are an operand are computed at run time."""
    place = {"Squeeze": 1, "Unsqueeze": 1, "Slice": 3, "Pad": 3}.get(node.op_type)
    if node.op_type.startswith("Reduce"):
        place = 1
    if place is None or len(node.inputs) <= place or (axes := node.inputs[place]) is None:
        return False
    return constant_of(axes) is None


def _gives(place: int) -> Callable[[ir.Node], bool]:
    return lambda node: len(node.outputs) > place and bool(node.outputs[place].name)


def _open_sizes(model: ir.Model) -> list[str]:
    """The inputs whose sizes are not fixed."""
    return [
        v.name or ""
        for v in model.graph.inputs
        if not v.is_initializer() and not all(isinstance(d, int) for d in dims_of(v) or [None])
    ]


def _several_ifs(model: ir.Model) -> list[str]:
    found = _operators("If")(model)
    return found if len(found) > 1 else []


_LAYOUTS = {"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_PACKED = {"MatMul", "Gemm", "Conv", "ConvTranspose"}


def _layouts(weight: ir.Value) -> Iterator[tuple[object, ...]]:
    """In which layouts products read a weight."""
    for node, k in weight.uses():
        if node.op_type in _LAYOUTS:
            how = (node.op_type, *map(str, node.attributes.values()))
            yield from ((*how, *layout) for layout in _layouts(node.outputs[0]))
        elif node.op_type in ("MatMul", "Gemm"):
            transposed = node.attributes.get("transB" if k else "transA")
            yield "MatMul", k, transposed is not None and transposed.as_int()
        elif node.op_type in _PACKED or node.op_type == "Slice":
            yield node.op_type, k


def _shared_weights(model: ir.Model) -> list[str]:
    """The weights that are square and read in several layouts."""
    return [
        w.name or ""
        for w in model.graph.initializers.values()
        if w.dtype in FLOATS
        and len(dims := dims_of(w) or ()) > 1
        and dims[0] == dims[1]
        and len({*_layouts(w)}) > 1
    ]


def _in_scans(applies: Callable[[ir.Node], bool]) -> Callable[[ir.Model], list[str]]:
    """Finds nodes in the bodies of Scans."""
    return lambda model: [
        _named(n)
        for scan in all_nodes(model.graph)
        if scan.op_type == "Scan"
        for body in subgraphs(scan)
        for n in all_nodes(body)
        if applies(n)
    ]


def _is_grouped(node: ir.Node) -> bool:
    """Whether a Conv has groups of several filters each."""
    if node.op_type != "Conv" or (group := node.attributes.get("group")) is None:
        return False
    filters = dims_of(node.inputs[1]) if node.inputs[1] is not None else None
    return group.as_int() > 1 and (filters is None or filters[0] != group.as_int())


def _half_precision(model: ir.Model) -> list[str]:
    """The inputs in half precision."""
    return [v.name or "" for v in model.graph.inputs if v.dtype == ir.DataType.FLOAT16]


def _stacks(node: ir.Node) -> bool:
    """Whether a Loop gives in steps what has two axes or more."""
    states = len(node.inputs) - 2
    return node.op_type == "Loop" and any(
        v.name and v.shape is not None and len(v.shape) > 2 for v in node.outputs[states:]
    )


def _half_gemm(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and node.outputs[0].dtype == ir.DataType.FLOAT16


def _pads_bools(node: ir.Node) -> bool:
    return node.op_type == "Pad" and node.outputs[0].dtype == ir.DataType.BOOL


def _writes_what_it_reads(node: ir.Node) -> bool:
    """Whether steps of a Scan read what they write."""
    if node.op_type != "Scan":
        return False
    body = node.attributes["body"].as_graph()
    states = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    return any(v.uses() for v in body.outputs[states:])


# -- the runtimes ----------------------------------------------------------------------------------

_LOSSES = ("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss")
_REVERSED = Limit("a Scan that runs backwards", "is refused", _nodes(_is_reversed))
_OPEN_AXES = Limit("axes that are computed at run time", "is refused", _nodes(_has_open_axes))
_UNPOOLED = Limit("MaxUnpool (target cpu)", "is refused", _operators("MaxUnpool"))
_INDICES = Limit(
    "the Indices of a MaxPool",
    "is refused",
    _nodes(lambda n: n.op_type == "MaxPool" and _gives(1)(n)),
)

_TENSORRT_LACKS = """
    AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow
    CenterCropPad Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear
    HammingWindow HannWindow MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Multinomial
    NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv
    QLinearMatMul STFT SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert
    SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence Unique"""
_DIRECTML = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat
    ConcatFromSequence ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DFT
    DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand
    EyeLike Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid Hardmax Identity If
    InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean
    MeanVarianceNormalization Min Mod Mul Neg NonZero Not OneHot OptionalGetElement
    OptionalHasElement Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RNN Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round STFT
    ScatterElements ScatterND Selu SequenceAt SequenceConstruct SequenceEmpty SequenceErase
    SequenceInsert SequenceLength Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Where Xor"""
_COREML = """
    Add ArgMax AveragePool Cast Clip Concat Conv ConvTranspose DepthToSpace Div Elu Erf Exp Gelu
    Gemm GlobalAveragePool GlobalMaxPool GridSample GroupNormalization InstanceNormalization
    LayerNormalization LeakyRelu MatMul Max MaxPool Mul PRelu Pow Reciprocal ReduceMax ReduceMean
    ReduceSum Relu Reshape Resize Round Shape Sigmoid Slice Softmax Softplus Split Sqrt Squeeze Sub
    Tanh Transpose Unsqueeze"""

RUNTIMES: dict[str, list[Limit]] = {
    "openvino": [
        Limit(
            "a square weight that is read in two layouts (target cpu)",
            "may be wrong",
            _shared_weights,
        ),
        Limit("a HardSigmoid with a beta of 0", "may be wrong", _nodes(_has_no_beta)),
        Limit("a Scan that captures values", "is refused", _nodes(_captures)),
        _OPEN_AXES,
        _UNPOOLED,
    ],
    "reference": [
        _REVERSED,
        Limit("what a Loop gives in steps, if no Reshape follows", "may be wrong", _nodes(_stacks)),
    ],
    "tract": [
        Limit("inputs whose sizes are not fixed", "is refused", _open_sizes),
        Limit("Loop and losses", "is refused", _operators("Loop", *_LOSSES)),
        _UNPOOLED,
        Limit("more than one If", "is refused", _several_ifs),
        Limit("a Gemm in half precision", "is refused", _nodes(_half_gemm)),
        Limit(
            "a Scan whose steps read what they write", "is refused", _nodes(_writes_what_it_reads)
        ),
        Limit("a Pad of truth values", "is refused", _nodes(_pads_bools)),
        Limit("an Equal in a Scan", "is refused", _in_scans(lambda n: n.op_type == "Equal")),
    ],
    "webgpu": [
        _INDICES,
        Limit("a Pad of truth values", "may be wrong", _nodes(_pads_bools)),
        Limit("a Conv in groups of several filters", "may be wrong", _nodes(_is_grouped)),
        Limit("half precision, where the device lacks shader-f16", "is refused", _half_precision),
    ],
    "tensorrt": [
        Limit("operators that its list lacks", "is refused", _operators(*_TENSORRT_LACKS.split())),
        _INDICES,
        Limit(
            "the mean of a LayerNormalization",
            "is refused",
            _nodes(lambda n: n.op_type == "LayerNormalization" and _gives(1)(n)),
        ),
        Limit(
            "a ScatterND that reduces",
            "is refused",
            _nodes(lambda n: n.op_type == "ScatterND" and "reduction" in n.attributes),
        ),
        _OPEN_AXES,
        Limit(
            "an opset above 20",
            "is refused",
            lambda model: ["the file"] if model.opset_imports.get("", 0) > 20 else [],
        ),
    ],
    "directml": [
        Limit("operators that its list lacks", "runs on the CPU", _other_than(_DIRECTML)),
    ],
    "coreml": [
        Limit("operators that its list lacks", "runs on the CPU", _other_than(_COREML)),
        Limit("inputs whose sizes are not fixed", "runs on the CPU", _open_sizes),
    ],
}
"""By runtime, what it lacks."""
