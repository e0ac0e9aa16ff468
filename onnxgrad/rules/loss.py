"""Losses over classes. With z the logarithms of the probabilities, y the label of a position and

    loss = -k z[y],    k = weight of y · cotangent of the loss (/ sum of the weights for the mean),

dz is -k at y and 0 elsewhere. A position whose label is `ignore_index` has weight 0. The positions
are counted, and k taken, in at least float32: half precision ends at 65504.
"""

import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes


def _index(op, labels, ignore_index):
    """Labels along an axis of their own, and where they count: None for everywhere."""
    index = op.Unsqueeze(op.cast(labels, ir.DataType.INT64), op.const([1]))
    if ignore_index is None:
        return index, None
    counts = ~index.equals(ignore_index)
    return op.Where(counts, index, op.const(0)), counts


def _per_position(op, g, labels, weights, ignore_index, reduction):
    """The labels, where they count, and by what their weight is multiplied in k."""
    index, counts = _index(op, labels, ignore_index)
    g = op.promoted(g)
    if reduction == "none":
        return index, counts, op.Unsqueeze(g, op.const([1]))
    if reduction == "mean":
        total = op.ReduceSum(_weights(op, g, index, counts, weights), keepdims=0)
        # If no position counts the loss is NaN and its gradient 0, as in PyTorch.
        g = op.bounded(g / op.Where(total.equals(0), op.const(1, like=total), total))
    return index, counts, g


def _weights(op, g, index, counts, weights):
    """The weight of every position."""
    if weights is None:
        w = shapes.expand_like(op.const(1, like=op.promoted(g)), index)
    else:
        w = op.Gather(op.promoted(weights), index)
    return w if counts is None else op.mask(w, counts)


def _k(op, g, labels, weights, ignore_index, reduction):
    """The labels and k."""
    index, counts, factor = _per_position(op, g, labels, weights, ignore_index, reduction)
    return index, _weights(op, g, index, counts, weights) * factor


def _weight_cotangent(op, g, z, loss, labels, weights, ignore_index, reduction):
    """-z[y], relative to the loss for a mean, summed by class."""
    index, counts, factor = _per_position(op, g, labels, weights, ignore_index, reduction)
    share = -op.GatherElements(op.promoted(z), index, axis=1)
    if reduction == "mean":
        share = share - op.promoted(loss)
    share = share * factor
    if counts is not None:  # not by a product: z may be infinite
        share = op.Where(counts, share, op.const(0, like=share))
    flat = op.const([-1])
    sums = op.ScatterElements(
        shapes.full_like(op.promoted(weights), 0),
        op.Reshape(index, flat),
        op.Reshape(share, flat),
        reduction="add",
    )
    return op.cast(sums, weights.dtype)


@rule("SoftmaxCrossEntropyLoss", "scores")
def _(op, g_output, g_log_prob, labels, weights, log_prob, ignore_index, reduction):
    """The rule of LogSoftmax follows that of the loss: dscores = dz - softmax · sum(dz)."""
    p, terms = op.bounded(op.Exp(op.promoted(log_prob))), []
    if g_output is not None:
        index, k = _k(op, g_output, labels, weights, ignore_index, reduction)
        there = op.GatherElements(p, index, axis=1)
        terms.append(op.ScatterElements(p * k, index, (there - 1) * k, axis=1))
    if g_log_prob is not None:
        g = op.promoted(g_log_prob)
        terms.append(g - p * op.ReduceSum(g, op.const([1]), keepdims=1))
    return op.cast(op.sum(terms), log_prob.dtype)


@rule("SoftmaxCrossEntropyLoss", "weights")
def _(op, g_output, g_log_prob, output, log_prob, labels, weights, ignore_index, reduction):
    if g_output is None:
        return None
    return _weight_cotangent(
        op, g_output, log_prob, output, labels, weights, ignore_index, reduction
    )


@rule("NegativeLogLikelihoodLoss", "input")
def _(op, g, input, target, weight, ignore_index, reduction):
    index, k = _k(op, g, target, weight, ignore_index, reduction)
    return op.ScatterElements(shapes.full_like(input, 0), index, op.cast(-k, input.dtype), axis=1)


@rule("NegativeLogLikelihoodLoss", "weight")
def _(op, g, input, loss, target, weight, ignore_index, reduction):
    return _weight_cotangent(op, g, input, loss, target, weight, ignore_index, reduction)
