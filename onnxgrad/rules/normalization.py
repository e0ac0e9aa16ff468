"""Normalisations. With x̂ = (x - mean) r, r = 1 / √(variance + ε) and n elements that share them,

dx = r (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂))

All of it in at least float32: squares have no room in half precision.
"""

import onnx_ir as ir

from onnxgrad.declare.registry import rule
from onnxgrad.emit import shapes
from onnxgrad.emit.broadcasting import unbroadcast
from onnxgrad.emit.tensor import Tensor


def _inverse_root(op, variance, epsilon):
    r = 1 / op.Sqrt(op.promoted(variance) + epsilon)
    return op.bounded(r) if epsilon > 0 else r


def _standardise(op, X, axes, epsilon):
    """x̂ and r, with mean and variance over `axes`."""
    X = op.promoted(X)
    centred = X - shapes.reduce_mean(X, axes, keepdims=1)
    r = _inverse_root(op, shapes.reduce_mean(centred * centred, axes, keepdims=1), epsilon)
    return centred * r, r


def _unstandardise(g, xhat, r, axes):
    """dx, given `g` = dx̂, in the dtype of x̂."""
    along = shapes.reduce_mean(g * xhat, axes, keepdims=1)
    return r * (g - shapes.reduce_mean(g, axes, keepdims=1) - xhat * along)


# A rule names the cotangents of all outputs, of those too that do not depend on its operand.

# -- BatchNormalization: statistics given, or in training mode those of the batch ------------------


def _channels(op, vector, X):
    """One number per channel, to multiply X with."""
    vector = op.cast(vector, X.dtype)
    behind = shapes.axes_from(X, 2)
    if isinstance(behind, Tensor):
        return op.Unsqueeze(vector, behind - 1)
    return op.Unsqueeze(vector, op.const([a - 1 for a in behind])) if behind else vector


def _other_axes(X):
    return shapes.axes_but(X, 1)


def _per_channel(op, t, like):
    """The sum over all but the channels; an X of rank 1 has one channel."""
    total = op.cast(shapes.reduce_sum(t, _other_axes(t)), like.dtype)
    return total if t.shape is not None and t.rank > 1 else shapes.reshape_like(total, like)


def _batch_xhat(op, X, input_mean, input_var, epsilon, training_mode):
    if training_mode:
        return _standardise(op, X, _other_axes(X), epsilon)[0]
    X, r = op.promoted(X), _inverse_root(op, input_var, epsilon)
    return (X - _channels(op, input_mean, X)) * _channels(op, r, X)


@rule("BatchNormalization", "X")
def _(
    op, g_Y, g_running_mean, g_running_var, X, scale, input_var, epsilon, momentum, training_mode
):
    axes, terms = _other_axes(X), []
    if not training_mode:
        r = _inverse_root(op, input_var, epsilon)
        return g_Y * _channels(op, scale * op.cast(r, scale.dtype), X)
    x = op.promoted(X)
    if g_Y is not None:
        xhat, r = _standardise(op, x, axes, epsilon)
        terms.append(_unstandardise(op.promoted(g_Y) * _channels(op, scale, x), xhat, r, axes))
    share = (1 - momentum) * shapes.inverse(shapes.count(X, axes), x)
    if g_running_mean is not None:
        terms.append(shapes.expand_like(_channels(op, g_running_mean, x) * share, x))
    if g_running_var is not None:
        centred = x - shapes.reduce_mean(x, axes, keepdims=1)
        terms.append(_channels(op, g_running_var, x) * (2 * share) * centred)
    return op.cast(op.sum(terms), X.dtype)


@rule("BatchNormalization", "scale")
def _(
    op, g_Y, g_running_mean, g_running_var, X, scale, input_mean, input_var, epsilon, training_mode
):
    if g_Y is None:
        return None
    xhat = _batch_xhat(op, X, input_mean, input_var, epsilon, training_mode)
    return _per_channel(op, op.promoted(g_Y) * xhat, scale)


@rule("BatchNormalization", "B")
def _(op, g_Y, g_running_mean, g_running_var, B):
    return None if g_Y is None else _per_channel(op, g_Y, B)


@rule("BatchNormalization", "input_mean")
def _(
    op, g_Y, g_running_mean, g_running_var, scale, input_mean, input_var,
    epsilon, momentum, training_mode,
):  # fmt: skip
    if training_mode:
        return None if g_running_mean is None else g_running_mean * momentum
    r = _inverse_root(op, input_var, epsilon)
    g = _per_channel(op, g_Y, r) * op.cast(scale, r.dtype) * r
    return op.cast(-g, input_mean.dtype)


@rule("BatchNormalization", "input_var")
def _(
    op, g_Y, g_running_mean, g_running_var, X, scale, input_mean, input_var,
    epsilon, momentum, training_mode,
):  # fmt: skip
    if training_mode:
        return None if g_running_var is None else g_running_var * momentum
    xhat = _batch_xhat(op, X, input_mean, input_var, epsilon, training_mode)
    r = _inverse_root(op, input_var, epsilon)
    g = _per_channel(op, op.promoted(g_Y) * xhat, r) * op.cast(scale, r.dtype) * (r * r) * -0.5
    return op.cast(g, input_var.dtype)


# -- InstanceNormalization: statistics of each image and channel ----------------------------------


@rule("InstanceNormalization", "input")
def _(op, g, input, scale, epsilon):
    axes = shapes.axes_from(input, 2)
    xhat, r = _standardise(op, input, axes, epsilon)
    dx = _unstandardise(op.promoted(g) * _channels(op, scale, xhat), xhat, r, axes)
    return op.cast(dx, input.dtype)


@rule("InstanceNormalization", "scale")
def _(op, g, input, scale, epsilon):
    xhat, _r = _standardise(op, input, shapes.axes_from(input, 2), epsilon)
    return _per_channel(op, op.promoted(g) * xhat, scale)


@rule("InstanceNormalization", "B")
def _(op, g, B):
    return _per_channel(op, g, B)


# -- LayerNormalization: statistics over the last axes ---------------------------------------------


def _layer_xhat(op, X, Mean, InvStdDev, axis, epsilon):
    """x̂ and r in the dtype in which the operator calculates; from its own outputs.

    Those are float32 even for an X of float64, which deserves better.
    """
    if X.dtype == ir.DataType.DOUBLE:
        return _standardise(op, X, shapes.axes_from(X, axis), epsilon)
    return (op.cast(X, Mean.dtype) - Mean) * InvStdDev, InvStdDev


@rule("LayerNormalization", "X")
def _(op, g_Y, g_Mean, g_InvStdDev, X, Scale, Mean, InvStdDev, axis, epsilon):
    axes, terms = shapes.axes_from(X, axis), []
    xhat, r = _layer_xhat(op, X, Mean, InvStdDev, axis, epsilon)
    if g_Y is not None:
        g = op.cast(g_Y, r.dtype) * op.cast(Scale, r.dtype)
        terms.append(_unstandardise(g, xhat, r, axes))
    share = shapes.inverse(shapes.count(X, axes), r)
    if g_Mean is not None:
        terms.append(shapes.expand_like(op.cast(g_Mean, r.dtype) * share, X))
    if g_InvStdDev is not None:
        terms.append(-(xhat * (op.cast(g_InvStdDev, r.dtype) * (r * r) * share)))
    return op.cast(op.sum(terms), X.dtype)


@rule("LayerNormalization", "Scale")
def _(op, g_Y, g_Mean, g_InvStdDev, X, Scale, Mean, InvStdDev, axis, epsilon):
    if g_Y is None:
        return None
    xhat, _r = _layer_xhat(op, X, Mean, InvStdDev, axis, epsilon)
    g = unbroadcast(op.cast(g_Y, xhat.dtype) * xhat, X.shape, Scale)
    return op.cast(g, Scale.dtype)


@rule("LayerNormalization", "B")
def _(g_Y, g_Mean, g_InvStdDev, X, B):
    return None if g_Y is None else unbroadcast(g_Y, X.shape, B)


# -- GroupNormalization: statistics of each image and group of channels ----------------------------


def _group_xhat(op, X, num_groups, epsilon):
    """x̂ and r with the channels in groups, [N, groups, ...]."""
    x = op.promoted(X)
    size = shapes.count(X, shapes.axes_from(X, 1)) // num_groups
    x = shapes.reshape(x, [shapes.dim(X, 0), num_groups, size])
    return _standardise(op, x, [2], epsilon)


@rule("GroupNormalization", "X")
def _(op, g, X, scale, num_groups, epsilon):
    xhat, r = _group_xhat(op, X, num_groups, epsilon)
    g = op.cast(g, xhat.dtype) * op.cast(_channels(op, scale, X), xhat.dtype)
    dx = _unstandardise(shapes.reshape_like(g, xhat), xhat, r, [2])
    return op.cast(shapes.reshape_like(dx, X), X.dtype)


@rule("GroupNormalization", "scale")
def _(op, g, X, scale, num_groups, epsilon):
    xhat, _r = _group_xhat(op, X, num_groups, epsilon)
    return _per_channel(op, op.cast(g, xhat.dtype) * shapes.reshape_like(xhat, X), scale)


@rule("GroupNormalization", "bias")
def _(op, g, bias):
    return _per_channel(op, g, bias)


# -- RMSNormalization: x̂ = x r without a mean ------------------------------------------------------


def _rms_xhat(op, X, axis, epsilon):
    x = op.promoted(X)
    square = shapes.reduce_mean(x * x, shapes.axes_from(X, axis), keepdims=1)
    r = _inverse_root(op, square, epsilon)
    return x * r, r


@rule("RMSNormalization", "X")
def _(op, g, X, scale, axis, epsilon):
    xhat, r = _rms_xhat(op, X, axis, epsilon)
    g = op.cast(g, r.dtype) * op.cast(scale, r.dtype)
    along = shapes.reduce_mean(g * xhat, shapes.axes_from(X, axis), keepdims=1)
    return op.cast(r * (g - xhat * along), X.dtype)


@rule("RMSNormalization", "scale")
def _(op, g, X, scale, axis, epsilon):
    xhat, _r = _rms_xhat(op, X, axis, epsilon)
    g = unbroadcast(op.cast(g, xhat.dtype) * xhat, X.shape, scale)
    return op.cast(g, scale.dtype)


# -- LRN, LpNormalization, MeanVarianceNormalization -----------------------------------------------


def _window_mean(op, X, before, after):
    """The sum over the channels from c - before to c + after, divided by their number."""
    planes = [shapes.dim(X, 0), 1, shapes.dim(X, 1), shapes.count(X, shapes.axes_from(X, 2))]
    mean = op.AveragePool(
        shapes.reshape(X, planes),
        kernel_shape=[before + after + 1, 1],
        pads=[before, 0, after, 0],
        count_include_pad=1,
    )
    return shapes.reshape_like(mean, X)


@rule("LRN", "X")
def _(op, g, X, Y, alpha, beta, bias, size):
    """y = x d^-beta, d = bias + alpha · the mean of x² over a window, which is transposed here."""
    before, after, dtype = (size - 1) // 2, size // 2, X.dtype
    g, X, Y = (op.promoted(t) for t in (g, X, Y))
    d = bias + alpha * _window_mean(op, X * X, before, after)
    mean = _window_mean(op, g * Y / d, after, before)
    dx = g * op.Pow(d, op.const(-beta, like=d)) - (2 * alpha * beta) * X * mean
    return op.cast(dx, dtype)


@rule("LpNormalization", "input")
def _(op, g, input, output, axis, p):
    """0 for a zero vector, whose output is 0 and where no derivative exists."""
    axes, dtype = op.const([axis]), input.dtype
    g, input, output = (op.promoted(t) for t in (g, input, output))
    norm = (op.ReduceL1 if p == 1 else op.ReduceL2)(input, axes, keepdims=1)
    nought = norm.equals(0)
    inverse = op.bounded(1 / op.Where(nought, op.const(1, like=norm), norm))
    direction = op.Sign(input) if p == 1 else output
    along = op.ReduceSum(g * output, axes, keepdims=1)
    return op.cast(op.mask(inverse, ~nought) * (g - direction * along), dtype)


@rule("MeanVarianceNormalization", "X")
def _(op, g, X, axes):
    """y = (x - mean) / (s + 1e-9), s the standard deviation: where s = 0, ds/dx is taken as 0."""
    axes, dtype = [shapes.axis_of(a, X) for a in axes], X.dtype
    g, X = op.promoted(g), op.promoted(X)
    centred = X - shapes.reduce_mean(X, axes, keepdims=1)
    variance = shapes.reduce_mean(centred * centred, axes, keepdims=1)
    flat = variance.equals(0)
    s = op.mask(op.Sqrt(op.Where(flat, op.const(1, like=X), variance)), ~flat)
    d = op.bounded(1 / (s + 1e-9))
    s = op.Where(flat, op.const(1, like=X), s)
    along = shapes.reduce_mean(g * centred, axes, keepdims=1) * d / s
    dx = d * (g - shapes.reduce_mean(g, axes, keepdims=1) - centred * along)
    return op.cast(dx, dtype)


# -- Dropout ---------------------------------------------------------------------------------------


@rule("Dropout", "data")
def _(op, g, ratio, training_mode, mask):
    training = False if training_mode is None else training_mode.const
    if training is not None and not training:
        return g
    scale = _scale(op, g, ratio)
    if training is None:
        scale = op.Where(training_mode, scale, op.const(1, like=g))
    return op.mask(g, mask) * scale


@rule("Dropout", "ratio")
def _(op, g, output, ratio, training_mode):
    """With the mask as it was drawn: d/dr x / (1 - r) = y / (1 - r), and 0 in inference."""
    training = False if training_mode is None else training_mode.const
    if training is not None and not training:
        return None
    total = shapes.reduce_sum(g * output, shapes.axes_from(g)) * _scale(op, g, ratio)
    if training is None:
        total = op.mask(total, training_mode)
    return op.cast(total, ratio.dtype)


def _scale(op, g, ratio):
    """1 / (1 - r), by which what remains is enlarged."""
    keep = 1 - (op.const(0.5, like=g) if ratio is None else op.cast(ratio, g.dtype))
    # All are dropped at a ratio of 1: the mask is 0, and no 0 · ∞.
    return op.bounded(1 / op.Where(keep.equals(0), op.const(1, like=g), keep))
