"""Deformable convolution: a convolution of what is sampled at the windows' elements, displaced.

It is calculated in points [B, P], with B over batch and offset groups, P over the elements of the
kernel and the outputs; what is sampled has the channels last: [B, P, C].
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxgrad.declare.registry import rule
from onnxgrad.emit import interpolation, shapes, windows
from onnxgrad.emit.interpolation import Taps
from onnxgrad.emit.shapes import Size
from onnxgrad.emit.tensor import Tensor
from onnxgrad.emit.windows import Axis


@rule("DeformConv")
def _(
    g, X, W, offset, mask, kernel_shape, strides, dilations, pads, group, offset_group, wanted
):  # fmt: skip
    kernel = list(kernel_shape) if kernel_shape else shapes.dims(W)[2:]
    axes = windows.sliding(X, kernel, strides, dilations, pads)
    s = _sampling(X, offset, mask, axes, shapes.dims(g)[2:], group, offset_group)
    found = {}
    if "X" in wanted:
        found["X"] = shapes.reshape_like(s.vjp_x(g, W), X)
    if "W" in wanted:
        found["W"] = shapes.reshape_like(s.vjp_filters(g), W)
    if "B" in wanted:
        found["B"] = shapes.reduce_sum(g, [a for a in range(g.rank) if a != 1])
    if "offset" in wanted:
        found["offset"] = shapes.reshape_like(s.vjp_offset(g, W), offset)
    if "mask" in wanted:
        found["mask"] = shapes.reshape_like(s.vjp_mask(g, W), mask)
    return found


def _sampling(
    X: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    axes: list[Axis],
    outputs: list[Size],
    group: int,
    offset_group: int,
) -> Sampling:
    op, d = X.op, len(axes)
    kernel = [a.kernel for a in axes]
    n, c, *sizes = shapes.dims(X)
    x = shapes.reshape(X, [n * offset_group, c // offset_group, *sizes])
    # One axis for each of the kernel's and the output's.
    offset = shapes.reshape(offset, [n * offset_group, *kernel, d, *outputs])
    places, taps = shapes.product([*kernel, *outputs]), []
    for k, a in enumerate(axes):
        steps = shapes.arange(op, a.kernel) * a.dilation - a.begin
        starts = shapes.arange(op, outputs[k]) * a.stride
        regular = shapes.reshape(steps, [-1] + [1] * (2 * d - 1 - k)) + shapes.reshape(
            starts, [-1] + [1] * (d - 1 - k)
        )
        points = op.Gather(offset, op.const(k), axis=1 + d) + op.Cast(regular, to=X.dtype)
        points = shapes.reshape(points, [n * offset_group, places])
        size = shapes.as_float(a.size, like=X)
        taps.append(interpolation.taps(points, size, interpolation.LINEAR))
    if mask is not None:
        mask = shapes.reshape(mask, [n * offset_group, places, 1])
    return Sampling(x, taps, mask, shapes.product(kernel), group, offset_group)


@dataclass
class Sampling:
    """Where X is sampled, and the cotangents that follow from it."""

    x: Tensor  # with the offset groups in the batch
    taps: list[Taps]
    mask: Tensor | None  # [B, P, 1]
    elements: Size  # of the kernel
    group: int
    offset_group: int

    @property
    def index(self) -> Tensor:
        return interpolation.flat_index([t.index for t in self.taps], shapes.dims(self.x)[2:])

    @property
    def weight(self) -> Tensor:
        return interpolation.outer([t.weight for t in self.taps])

    @property
    def neighbours(self) -> Tensor:
        """[B, T, P, C]"""
        return interpolation.gather(self.x, self.index)

    @property
    def sampled(self) -> Tensor:
        """[B, P, C]"""
        weight = self.x.op.Unsqueeze(self.weight, self.x.op.const([3]))
        return shapes.reduce_sum(self.neighbours * weight, [1])

    def masked(self, t: Tensor) -> Tensor:
        return t if self.mask is None else t * self.mask

    def grouped(self, g: Tensor) -> Tensor:
        """`g` as [N, group, M / group, outputs]."""
        n, m, *outputs = shapes.dims(g)
        return shapes.reshape(g, [n, self.group, m // self.group, shapes.product(outputs)])

    def columns(self, g: Tensor, W: Tensor) -> Tensor:
        """The cotangent of what enters the convolution: [B, P, C]."""
        op, g = g.op, self.grouped(g)
        n, _, filters, outputs = shapes.dims(g)
        W = shapes.reshape(W, [self.group, filters, -1])
        y = op.MatMul(op.Transpose(W, perm=[0, 2, 1]), g)
        points = self.elements * outputs
        y = shapes.reshape(y, [n * self.offset_group, shapes.dim(self.x, 1), points])
        return op.Transpose(y, perm=[0, 2, 1])

    def vjp_x(self, g: Tensor, W: Tensor) -> Tensor:
        columns = self.masked(self.columns(g, W))
        columns = interpolation.weighted(columns, self.weight)
        return interpolation.scatter(columns, self.index, self.x)

    def vjp_filters(self, g: Tensor) -> Tensor:
        op, g = g.op, self.grouped(g)
        n, _, _, outputs = shapes.dims(g)
        columns = op.Transpose(self.masked(self.sampled), perm=[0, 2, 1])
        channels = self.offset_group * shapes.dim(columns, 1) // self.group
        columns = shapes.reshape(columns, [n, self.group, channels * self.elements, outputs])
        return shapes.reduce_sum(op.MatMul(g, op.Transpose(columns, perm=[0, 1, 3, 2])), [0])

    def vjp_mask(self, g: Tensor, W: Tensor) -> Tensor:
        return shapes.reduce_sum(self.columns(g, W) * self.sampled, [2])

    def vjp_offset(self, g: Tensor, W: Tensor) -> Tensor:
        op = g.op
        columns = op.Unsqueeze(self.masked(self.columns(g, W)), op.const([1]))
        g_weight = shapes.reduce_sum(self.neighbours * columns, [3])
        outputs, parts = shapes.product(shapes.dims(g)[2:]), []
        for k in range(len(self.taps)):
            factors = [t.slope if j == k else t.weight for j, t in enumerate(self.taps)]
            part = shapes.reduce_sum(g_weight * interpolation.outer(factors), [1])
            parts.append(shapes.reshape(part, [-1, self.elements, 1, outputs]))
        return op.Concat(*parts, axis=2)
