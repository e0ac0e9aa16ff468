"""Ranks that operators fix where the standard's inference leaves them open: see `corrections`."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.graph.constants import dims_in
from onnxgrad.graph.corrections import Found, rank
from onnxgrad.graph.facts import common_shape, dims_of, subgraphs


def _rank_of(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def _operand(node: ir.Node, k: int) -> ir.Value | None:
    return node.inputs[k] if k < len(node.inputs) else None


def _length(value: ir.Value | None) -> int | None:
    """The number of elements of a vector; None where it is unknown."""
    dims = None if value is None else dims_of(value)
    if value is None or dims is None or len(dims) != 1:
        return None
    if isinstance(dims[0], int):
        return dims[0]
    held = dims_in(value)
    return None if held is None else len(held)


def _same(*pairs: tuple[ir.Value | None, int | None]) -> Found:
    """The values whose rank is given, with unknown sizes."""
    return [(v, [None] * r) for v, r in pairs if r is not None and r >= 0]


@rank("Attention")
def _attention(node: ir.Node) -> Found:
    """Caches and scores have 4 axes; Q, K, V and Y have 3 where an attribute tells the heads."""
    axes = 3 if "q_num_heads" in node.attributes else 4
    return _same(
        *((v, axes) for v in (*node.inputs[:3], node.outputs[0])),
        *((v, 4) for v in (*node.inputs[4:6], *node.outputs[1:])),
    )


@rank("GRU", "LSTM", "RNN")
def _recurrent(node: ir.Node) -> Found:
    """X is [time, batch, features], a state [directions, batch, size], and Y has all four axes."""
    operands = zip(node.inputs, (3, 3, 3, 2, 1, 3, 3, 2), strict=False)
    yield from ((v, [None] * r) for v, r in operands)
    yield from ((v, [None] * (3 if k else 4)) for k, v in enumerate(node.outputs))


@rank("Conv", "ConvTranspose", "DeformConv")
def _sliding(node: ir.Node) -> Found:
    """A convolution's operand has the rank of its filters."""
    x, w = node.inputs[:2]
    kernel = node.attributes.get_ints("kernel_shape")
    ranks = [r for r in (_rank_of(x), _rank_of(w), len(kernel) + 2 if kernel else None) if r]
    if ranks:
        free = [None] * (ranks[0] - 2)
        filters = None if w is None else dims_of(w)
        channels = filters[0] if filters and node.op_type == "Conv" else None
        yield x, [None, None, *free]
        yield w, [None, None, *free]
        yield node.outputs[0], [None, channels, *free]
        if node.op_type == "DeformConv":
            yield from ((_operand(node, k), [None, None, *free]) for k in (2, 4))
        bias = 3 if node.op_type == "DeformConv" else 2
        yield _operand(node, bias), [None]


@rank("AveragePool", "LpPool", "MaxPool", "MaxUnpool")
def _pools(node: ir.Node) -> Found:
    kernel = node.attributes.get_ints("kernel_shape") or ()
    values = (node.inputs[0], *node.outputs)
    return _same(*((v, len(kernel) + 2) for v in values)) if kernel else []


@rank("DepthToSpace", "SpaceToDepth")
def _images(node: ir.Node) -> Found:
    return _same((node.inputs[0], 4), (node.outputs[0], 4))


@rank("MaxRoiPool", "RoiAlign")
def _regions(node: ir.Node) -> Found:
    return _same((node.inputs[0], 4), (node.inputs[1], 2), (node.outputs[0], 4))


@rank("Gemm", "Multinomial", "EyeLike")
def _matrices(node: ir.Node) -> Found:
    return _same(*((v, 2) for v in (*node.inputs[:2], *node.outputs)))


@rank("Flatten")
def _flatten(node: ir.Node) -> Found:
    return _same((node.outputs[0], 2))


@rank("Shape", "Range", "Size")
def _counted(node: ir.Node) -> Found:
    return _same((node.outputs[0], 0 if node.op_type == "Size" else 1))


@rank("Transpose")
def _transpose(node: ir.Node) -> Found:
    perm = node.attributes.get_ints("perm")
    return _same((node.inputs[0], len(perm)), (node.outputs[0], len(perm))) if perm else []


@rank("STFT")
def _stft(node: ir.Node) -> Found:
    x = None if node.inputs[0] is None else dims_of(node.inputs[0])
    yield node.outputs[0], [x[0] if x else None, None, None, 2]


@rank("Col2Im")
def _col2im(node: ir.Node) -> Found:
    image = _length(node.inputs[1])
    return _same((node.inputs[0], 3), (node.outputs[0], None if image is None else image + 2))


@rank("AffineGrid", "ConstantOfShape")
def _sized(node: ir.Node) -> Found:
    """The last operand holds the sizes of the output."""
    theta = node.inputs[0] if node.op_type == "AffineGrid" else None
    return _same((theta, 3), (node.outputs[0], _length(node.inputs[-1])))


@rank("GridSample")
def _grid_sample(node: ir.Node) -> Found:
    ranks = [r for r in (_rank_of(node.inputs[0]), _rank_of(node.inputs[1])) if r is not None]
    values = (*node.inputs[:2], node.outputs[0])
    return _same(*((v, ranks[0]) for v in values)) if ranks else []


@rank("Reshape")
def _reshape(node: ir.Node) -> Found:
    return _same((node.outputs[0], _length(node.inputs[1])))


@rank("Squeeze", "Unsqueeze")
def _squeeze(node: ir.Node) -> Found:
    """The rank follows from the number of axes; without axes it depends on sizes."""
    axes = _length(_operand(node, 1))
    if axes is None:
        return
    more = axes if node.op_type == "Unsqueeze" else -axes
    x, y = _rank_of(node.inputs[0]), _rank_of(node.outputs[0])
    yield from _same((node.outputs[0], None if x is None else x + more))
    yield from _same((node.inputs[0], None if y is None else y - more))


@rank(
    "ArgMax",
    "ArgMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
def _reduce(node: ir.Node) -> Found:
    x, axes = _rank_of(node.inputs[0]), _operand(node, 1)
    if node.attributes.get_int("keepdims", 1):
        yield from _same((node.outputs[0], x))
    elif axes is None and not node.op_type.startswith("Arg"):
        yield from _same((node.outputs[0], x if _idle(node) else 0))
    elif x is not None and (n := 1 if axes is None else _length(axes)) is not None:
        yield node.outputs[0], [None] * (x - n if n else x if _idle(node) else 0)


def _idle(node: ir.Node) -> bool:
    return bool(node.attributes.get_int("noop_with_empty_axes", 0))


@rank("If")
def _if(node: ir.Node) -> Found:
    """An output has the shape in which the branches agree."""
    for out, *given in zip(node.outputs, *(g.outputs for g in subgraphs(node)), strict=True):
        shape = common_shape(*(v.shape for v in given))
        if shape is not None:
            yield out, list(shape)


@rank("Loop")
def _loop(node: ir.Node) -> Found:
    """A final state is the initial one if no step runs, else a result of the body: they agree."""
    body = next(iter(subgraphs(node)))
    states = len(node.inputs) - 2
    for out, initial, state in zip(node.outputs, node.inputs[2:], body.outputs[1:], strict=False):
        shape = None if initial is None else common_shape(initial.shape, state.shape)
        if shape is not None:
            yield out, list(shape)
    for out, step in zip(node.outputs[states:], body.outputs[states + 1 :], strict=False):
        dims = dims_of(step)
        if dims is not None:
            yield out, [None, *(d if isinstance(d, int) else None for d in dims)]


@rank("Scan")
def _scan(node: ir.Node) -> Found:
    """A state keeps its shape; the results of the steps are stacked along one axis."""
    body = next(iter(subgraphs(node)))
    states = len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    for k, (out, step) in enumerate(zip(node.outputs, body.outputs, strict=True)):
        initial = node.inputs[k] if k < states else None
        if initial is not None and initial.shape is not None:
            yield out, list(initial.shape)
        elif k >= states and step.shape is not None:
            yield out, [None] * (len(step.shape) + 1)


@rank("Einsum")
def _einsum(node: ir.Node) -> Found:
    left, arrow, right = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    terms = [*left.split(","), *([right] if arrow else [])]
    values = (*node.inputs, node.outputs[0])
    return _same(*((v, len(t)) for v, t in zip(values, terms, strict=False) if "..." not in t))


@rank("CenterCropPad", "Pad", "Resize", "Tile")
def _by_axis(node: ir.Node) -> Found:
    """An operand holds a number for each axis, or two of a Pad, unless axes are named."""
    given = {"CenterCropPad": [1], "Pad": [1], "Resize": [2, 3], "Tile": [1]}[node.op_type]
    lengths = [n for k in given if (n := _length(_operand(node, k)))]
    named = "axes" in node.attributes or (node.op_type == "Pad" and _operand(node, 3) is not None)
    if lengths and not named:
        n = lengths[0] // 2 if node.op_type == "Pad" else lengths[0]
        yield from _same((node.inputs[0], n), (node.outputs[0], n))
    yield from _of_first(node)


@rank("Split")
def _split(node: ir.Node) -> Found:
    """An output has the rank of the operand, also where the sizes of the parts are computed."""
    return _same(*((v, _rank_of(node.inputs[0])) for v in node.outputs))


@rank("GroupNormalization", "MeanVarianceNormalization")
def _alike(node: ir.Node) -> Found:
    dims = None if node.inputs[0] is None else dims_of(node.inputs[0])
    return [] if dims is None else [(node.outputs[0], dims)]


@rank(
    "BatchNormalization",
    "Compress",
    "DFT",
    "Slice",
    "TopK",
    "Trilu",
    "Upsample",
)
def _of_first(node: ir.Node) -> Found:
    """The rank is that of the first operand."""
    if node.op_type == "Compress" and "axis" not in node.attributes:
        return _same((node.outputs[0], 1))
    outputs = node.outputs if node.op_type == "TopK" else node.outputs[:1]
    return _same(*((v, _rank_of(node.inputs[0])) for v in outputs))
