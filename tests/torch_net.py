"""An ONNX file read by PyTorch, whose autograd knows nothing of our rules.

It reads the file as it is, at its own opset, and covers what the files of test_real_models.py hold.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch.nn import functional as F

Tensor = torch.Tensor
Values = dict[str, Tensor]
# Takes the operands and the attributes; gives one result or several.
Operator = Callable[..., Any]
OPERATORS: dict[str, Operator] = {}

_KINDS = {
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


class Net:
    """A model with its weights as leaves of PyTorch's graph, calculated in one precision."""

    def __init__(self, model: onnx.ModelProto, dtype: torch.dtype = torch.float64) -> None:
        self.graph, self.dtype = model.graph, dtype
        self.opset = next(o.version for o in model.opset_import if not o.domain)
        self.values: Values = {}
        self.sources: set[str] = set()

    def run(self, feeds: Mapping[str, np.ndarray], sources: Sequence[str]) -> Values:
        """All values by name; for `gradients` with respect to `sources`."""
        self.values, self.sources = {}, set(sources)
        with self._precision():
            for name, array in feeds.items():
                self._set(name, _tensor(array))
            self._graph(self.graph)
        return self.values

    def gradients(self, seeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The gradients with respect to the sources of the last run, given those of other values.

        A weight of a branch that was not taken has no value, and the gradient zero.
        """
        with self._precision():
            total = sum((self.values[y] * _tensor(seed)).sum() for y, seed in seeds.items())
            total.backward()
        grads = {n: self.values[n].grad if n in self.values else None for n in self.sources}
        return {n: np.zeros(1) if g is None else g.numpy() for n, g in grads.items()}

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        yield
        torch.set_default_dtype(before)

    def _set(self, name: str, value: Tensor) -> None:
        if name in self.sources:
            if value.requires_grad:
                value.retain_grad()
            else:
                value.requires_grad_()
        self.values[name] = value

    def _graph(self, graph: onnx.GraphProto) -> list[Tensor]:
        for tensor in graph.initializer:
            if tensor.name not in self.values:
                self._set(tensor.name, _tensor(onnx.numpy_helper.to_array(tensor)))
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "If":
                branch = "then_branch" if self.values[node.input[0]].item() else "else_branch"
                results: Any = self._graph(attributes[branch])
            else:
                operands = [self.values[n] if n else None for n in node.input]
                if node.op_type == "Split":
                    attributes["parts"] = len(node.output)
                if node.op_type in ("Softmax", "Clip"):
                    attributes["opset"] = self.opset
                results = OPERATORS[node.op_type](*operands, **attributes)
            for name, value in zip(node.output, _listed(results), strict=False):
                if name:
                    self._set(name, value)
        return [self.values[o.name] for o in graph.output]


def _listed(results: Any) -> Sequence[Tensor]:
    return results if isinstance(results, tuple | list) else [results]


def _tensor(array: np.ndarray) -> Tensor:
    floating = np.issubdtype(array.dtype, np.floating)
    return torch.tensor(array, dtype=torch.get_default_dtype() if floating else None)


def _ints(t: Tensor | Sequence[int]) -> list[int]:
    return [int(i) for i in (t.tolist() if isinstance(t, Tensor) else t)]


def operator(*names: str) -> Callable[[Operator], Operator]:
    def add(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return add


# -- element by element --------------------------------------------------------------------------

OPERATORS |= {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Pow": torch.pow, "Neg": torch.neg,
    "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt, "Cos": torch.cos, "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid, "Relu": torch.relu, "Reciprocal": torch.reciprocal,
    "Equal": torch.eq, "Less": torch.lt, "Not": torch.logical_not, "Where": torch.where,
    "Identity": torch.clone, "HardSwish": F.hardswish,
    "Dropout": lambda x, **_: x.clone(),
    "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0, 1),
    "PRelu": lambda x, slope: torch.where(x > 0, x, slope * x),
    "Cast": lambda x, to: x.to(_KINDS.get(to) or torch.get_default_dtype()),
    "Shape": lambda x: torch.tensor(x.shape),
    "Size": lambda x: torch.tensor(x.numel()),
}  # fmt: skip


@operator("Constant")
def _(**attributes: Any) -> Tensor:
    ((name, value),) = attributes.items()
    return _tensor(onnx.numpy_helper.to_array(value) if name == "value" else np.array(value))


@operator("Div")
def _(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Sum")
def _(*operands: Tensor) -> Tensor:
    return torch.stack(operands).sum(0)


@operator("Max")
def _(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b)


@operator("Clip")
def _(x: Tensor, low: Any = None, high: Any = None, *, opset: int, **bounds: float) -> Tensor:
    return torch.clamp(x, bounds.get("min", low), bounds.get("max", high))


@operator("Softmax")
def _(x: Tensor, *, opset: int, axis: int | None = None) -> Tensor:
    if opset >= 13:
        return torch.softmax(x, -1 if axis is None else axis)
    return torch.softmax(x.flatten(1 if axis is None else axis), -1).reshape(x.shape)


# -- shapes --------------------------------------------------------------------------------------


@operator("Reshape")
def _(x: Tensor, shape: Tensor, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[k] if n == 0 else n for k, n in enumerate(_ints(shape))]).clone()


@operator("Flatten")
def _(x: Tensor, axis: int = 1) -> Tensor:
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


@operator("Transpose")
def _(x: Tensor, perm: Sequence[int]) -> Tensor:
    return x.permute(list(perm)).clone()


@operator("Squeeze")
def _(x: Tensor, at: Tensor | None = None, *, axes: Any = None) -> Tensor:
    given = _ints(at) if at is not None else axes
    return x.squeeze().clone() if given is None else x.squeeze(tuple(given)).clone()


@operator("Unsqueeze")
def _(x: Tensor, at: Tensor | None = None, *, axes: Any = None) -> Tensor:
    given = _ints(axes if at is None else at)
    for axis in sorted(a % (x.ndim + len(given)) for a in given):
        x = x.unsqueeze(axis)
    return x.clone()


@operator("Concat")
def _(*operands: Tensor, axis: int) -> Tensor:
    return torch.cat(operands, axis)


@operator("Split")
def _(x: Tensor, sizes: Any = None, *, parts: int, axis: int = 0, num_outputs: int = 0) -> Any:
    size = _ints(sizes) if sizes is not None else -(-x.shape[axis] // parts)
    return [part.clone() for part in x.split(size, axis)]


@operator("Slice")
def _(
    x: Tensor, starts_: Any = None, ends_: Any = None, axes_: Any = None, steps_: Any = None,
    *, starts: Any = None, ends: Any = None, axes: Any = None,
) -> Tensor:  # fmt: skip
    first, last = (
        _ints(starts if starts_ is None else starts_),
        _ints(ends_ if starts is None else ends),
    )
    along = axes if axes_ is None else _ints(axes_)
    steps = [1] * len(first) if steps_ is None else _ints(steps_)
    for k, axis in enumerate(along or range(len(first))):
        x = _pick(x, axis, np.arange(x.shape[axis])[first[k] : last[k] : steps[k]])
    return x.clone()


def _pick(x: Tensor, axis: int, index: np.ndarray) -> Tensor:
    return x.index_select(axis, torch.tensor(index.copy(), dtype=torch.int64))


@operator("Gather")
def _(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    axis, index = axis % x.ndim, torch.where(index < 0, index + x.shape[axis], index)
    shape = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, index.flatten()).reshape(shape)


@operator("ScatterElements")
def _(x: Tensor, index: Tensor, updates: Tensor, axis: int = 0, reduction: bytes = b"none") -> Any:
    index = torch.where(index < 0, index + x.shape[axis], index)
    how = {b"none": None, b"add": "sum", b"max": "amax", b"min": "amin"}[reduction]
    if how is None:
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, how)


@operator("Expand")
def _(x: Tensor, shape: Tensor) -> Tensor:
    return x.broadcast_to(torch.broadcast_shapes(x.shape, _ints(shape))).clone()


@operator("ConstantOfShape")
def _(shape: Tensor, value: Any = None) -> Tensor:
    fill = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    return _tensor(np.full(_ints(shape), fill[0]))


@operator("Pad")
def _(
    x: Tensor,
    pads_: Any = None,
    fill: Any = None,
    *,
    pads: Any = None,
    mode: bytes = b"constant",
    value: float = 0,
) -> Tensor:
    sizes = _ints(pads if pads_ is None else pads_)
    if mode == b"constant":
        both = [n for k in reversed(range(x.ndim)) for n in (sizes[k], sizes[k + x.ndim])]
        return F.pad(x, both, value=value if fill is None else fill.item())
    for k in range(x.ndim):
        around = (sizes[k], sizes[k + x.ndim])
        x = _pick(x, k, np.pad(np.arange(x.shape[k]), around, mode=mode.decode()))  # type: ignore[call-overload]
    return x


@operator("Resize")
def _(
    x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None, **attributes: Any
) -> Tensor:
    assert attributes["mode"] == b"nearest"
    assert attributes["coordinate_transformation_mode"] == b"asymmetric"
    assert attributes["nearest_mode"] == b"floor"
    factors = (
        scales.tolist()
        if scales is not None and scales.numel()
        else [b / a for a, b in zip(x.shape, _ints(sizes), strict=True)]
    )
    for axis, factor in enumerate(factors):
        x = x.repeat_interleave(int(factor), axis) if factor != 1 else x
    return x


# -- reductions and products ---------------------------------------------------------------------


def _reduction(function: Operator) -> Operator:
    def reduce(
        x: Tensor, at: Any = None, *, axes: Any = None, keepdims: int = 1, **_: int
    ) -> Tensor:
        given = axes if at is None else _ints(at)
        return function(x, dim=tuple(given or range(x.ndim)), keepdim=bool(keepdims))

    return reduce


OPERATORS |= {
    "ReduceSum": _reduction(torch.sum), "ReduceMean": _reduction(torch.mean),
    "ReduceMax": _reduction(torch.amax), "ReduceMin": _reduction(torch.amin),
    "ReduceL2": _reduction(torch.linalg.vector_norm), "MatMul": torch.matmul,
}  # fmt: skip


@operator("Gemm")
def _(a: Tensor, b: Tensor, c: Any = None, **t: Any) -> Tensor:
    a, b = (a.T if t.get("transA") else a), (b.T if t.get("transB") else b)
    y = t.get("alpha", 1.0) * (a @ b)
    return y if c is None else y + t.get("beta", 1.0) * c


@operator("LayerNormalization")
def _(
    x: Tensor, scale: Tensor, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, **_: Any
) -> Tensor:
    axes = tuple(range(axis % x.ndim, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    y = centred / torch.sqrt((centred**2).mean(axes, keepdim=True) + epsilon) * scale
    return y if bias is None else y + bias


@operator("BatchNormalization")
def _(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    epsilon: float = 1e-5,
    **_: Any,
) -> Tensor:
    s, b, m, v = (t.reshape(-1, *[1] * (x.ndim - 2)) for t in (scale, bias, mean, var))
    return (x - m) / torch.sqrt(v + epsilon) * s + b


@operator("LRN")
def _(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, bias)


# -- windows -------------------------------------------------------------------------------------


def _padded(
    x: Tensor, kernel: Sequence[int], a: dict[str, Any], fill: float = 0.0
) -> tuple[Tensor, list[int], list[int]]:
    """The tensor with its padding, strides and dilations."""
    n = len(kernel)
    strides, dilations = a.get("strides", [1] * n), a.get("dilations", [1] * n)
    pads = list(a.get("pads", [0] * 2 * n))
    auto = a.get("auto_pad", b"NOTSET").decode()
    if auto.startswith("SAME"):
        for k in range(n):
            size = x.shape[k + 2]
            last = (-(-size // strides[k]) - 1) * strides[k]
            total = max(last + (kernel[k] - 1) * dilations[k] + 1 - size, 0)
            pads[k], pads[k + n] = total // 2, total - total // 2
            if auto == "SAME_LOWER":
                pads[k], pads[k + n] = pads[k + n], pads[k]
    if a.get("ceil_mode"):
        for k in range(n):
            rest = (x.shape[k + 2] + pads[k] + pads[k + n] - kernel[k]) % strides[k]
            pads[k + n] += (strides[k] - rest) % strides[k]
    both = [m for k in reversed(range(n)) for m in (pads[k], pads[k + n])]
    return F.pad(x, both, value=fill), list(strides), list(dilations)


@operator("Conv")
def _(x: Tensor, w: Tensor, b: Any = None, group: int = 1, **a: Any) -> Tensor:
    n = w.ndim - 2
    x, strides, dilations = _padded(x, w.shape[2:], a)
    conv = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    return conv(x, w, b, strides, 0, dilations, group)


@operator("ConvTranspose")
def _(x: Tensor, w: Tensor, b: Any = None, group: int = 1, **a: Any) -> Tensor:
    assert not any(a.get("pads", [])) and a.get("auto_pad", b"NOTSET") == b"NOTSET"
    return F.conv_transpose2d(x, w, b, a["strides"], groups=group)


@operator("MaxPool")
def _(x: Tensor, kernel_shape: Sequence[int], storage_order: int = 0, **a: Any) -> Tensor:
    x, strides, dilations = _padded(x, kernel_shape, a, -torch.inf)
    pool = (F.max_pool1d, F.max_pool2d)[len(kernel_shape) - 1]
    return pool(x, list(kernel_shape), strides, 0, dilations)


@operator("AveragePool")
def _(x: Tensor, kernel_shape: Sequence[int], count_include_pad: int = 0, **a: Any) -> Tensor:
    def pool(t: Tensor) -> Tensor:
        t, strides, _ = _padded(t, kernel_shape, a)
        return F.avg_pool2d(t, list(kernel_shape), strides)

    return pool(x) if count_include_pad else pool(x) / pool(torch.ones_like(x))


@operator("GlobalAveragePool")
def _(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


# -- recurrent -----------------------------------------------------------------------------------


def _recurrent(step: Operator, parts: int) -> Operator:
    """Step by step, as the standard writes it; `step` gives the states after one."""

    def run(
        x: Tensor, w: Tensor, r: Tensor, b: Any = None, lens: Any = None, *initial: Tensor,
        hidden_size: int, direction: bytes = b"forward", linear_before_reset: int = 0, **a: Any,
    ) -> list[Tensor]:  # fmt: skip
        assert lens is None and not set(a) - {"layout"} and not a.get("layout")
        ys, finals = [], []
        for k in range(w.shape[0]):
            states = [s[k] for s in initial]
            states += [x.new_zeros(x.shape[1], hidden_size)] * (parts - len(states))
            wb, rb = b[k].chunk(2) if b is not None else (x.new_zeros(1), x.new_zeros(1))
            backward = direction == b"reverse" or k == 1
            rows = []
            for t in range(x.shape[0])[:: -1 if backward else 1]:
                states = step(x[t] @ w[k].T, states, r[k], wb, rb, linear_before_reset)
                rows.append(states[0])
            ys.append(torch.stack(rows[::-1] if backward else rows))
            finals.append(states)
        ends = [torch.stack([f[s] for f in finals]) for s in range(parts)]
        return [torch.stack(ys, 1), *ends]

    return run


def _lstm(
    x: Tensor, states: list[Tensor], r: Tensor, wb: Tensor, rb: Tensor, _: int
) -> list[Tensor]:
    h, c = states
    i, o, f, g = (x + h @ r.T + wb + rb).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def _gru(
    x: Tensor, states: list[Tensor], r: Tensor, wb: Tensor, rb: Tensor, linear_before_reset: int
) -> list[Tensor]:
    (h,) = states
    (xz, xr, xh), (rz, rr, rh) = (x + wb).chunk(3, -1), r.chunk(3)
    bz, br, bh = rb.chunk(3)
    z = torch.sigmoid(xz + h @ rz.T + bz)
    reset = torch.sigmoid(xr + h @ rr.T + br)
    inner = reset * (h @ rh.T + bh) if linear_before_reset else (reset * h) @ rh.T + bh
    return [(1 - z) * torch.tanh(xh + inner) + z * h]


OPERATORS |= {"LSTM": _recurrent(_lstm, 2), "GRU": _recurrent(_gru, 1)}
