"""Normalisations. With x̂ = (x - mean) r, r = 1 / √(variance + ε) and n elements that share them,

    dx = r (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂))
"""

import onnx_ir as ir

from onnxgrad import shapes
from onnxgrad.registry import rule


def _inverse_root(op, variance, epsilon):
    r = 1 / op.Sqrt(variance + epsilon)
    return op.bounded(r) if epsilon > 0 else r


def _standardise(op, X, axes, epsilon):
    """x̂ and r, with mean and variance over `axes`."""
    centred = X - shapes.reduce_mean(X, axes, keepdims=1)
    r = _inverse_root(op, shapes.reduce_mean(centred * centred, axes, keepdims=1), epsilon)
    return centred * r, r


def _unstandardise(g, xhat, r, axes):
    """dx, given `g` = dx̂."""
    along = shapes.reduce_mean(g * xhat, axes, keepdims=1)
    return r * (g - shapes.reduce_mean(g, axes, keepdims=1) - xhat * along)


# A rule names the cotangents of all outputs, of those too that do not depend on its operand.

# -- BatchNormalization: statistics given, or in training mode those of the batch ------------------


def _channels(op, vector, X):
    """One number per channel, to multiply X with."""
    vector = op.cast(vector, X.dtype)
    return op.Unsqueeze(vector, op.const(range(1, X.rank - 1))) if X.rank > 2 else vector


def _other_axes(X):
    return [a for a in range(X.rank) if a != 1]


def _per_channel(op, t, like):
    """The sum over all but the channels; an X of rank 1 has one channel."""
    return op.cast(shapes.reduce_sum(t, _other_axes(t), keepdims=int(t.rank == 1)), like.dtype)


def _batch_xhat(op, X, input_mean, input_var, epsilon, training_mode):
    if training_mode:
        return _standardise(op, X, _other_axes(X), epsilon)[0]
    r = _inverse_root(op, input_var, epsilon)
    return (X - _channels(op, input_mean, X)) * _channels(op, r, X)


@rule("BatchNormalization", "X")
def _(
    op, g_Y, g_running_mean, g_running_var, X, scale, input_var, epsilon, momentum, training_mode
):
    axes, terms = _other_axes(X), []
    if not training_mode:
        r = _inverse_root(op, input_var, epsilon)
        return g_Y * _channels(op, scale * op.cast(r, scale.dtype), X)
    if g_Y is not None:
        xhat, r = _standardise(op, X, axes, epsilon)
        terms.append(_unstandardise(g_Y * _channels(op, scale, X), xhat, r, axes))
    share = (1 - momentum) * shapes.inverse(shapes.count(X, axes), X)
    if g_running_mean is not None:
        terms.append(shapes.expand_like(_channels(op, g_running_mean, X) * share, X))
    if g_running_var is not None:
        centred = X - shapes.reduce_mean(X, axes, keepdims=1)
        terms.append(_channels(op, g_running_var, X) * (2 * share) * centred)
    return op.sum(terms)


@rule("BatchNormalization", "scale")
def _(
    op, g_Y, g_running_mean, g_running_var, X, scale, input_mean, input_var, epsilon, training_mode
):
    if g_Y is None:
        return None
    xhat = _batch_xhat(op, X, input_mean, input_var, epsilon, training_mode)
    return _per_channel(op, g_Y * xhat, scale)


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
    return -_per_channel(op, g_Y, input_mean) * op.cast(scale, r.dtype) * r


@rule("BatchNormalization", "input_var")
def _(
    op, g_Y, g_running_mean, g_running_var, X, scale, input_mean, input_var,
    epsilon, momentum, training_mode,
):  # fmt: skip
    if training_mode:
        return None if g_running_var is None else g_running_var * momentum
    xhat = _batch_xhat(op, X, input_mean, input_var, epsilon, training_mode)
    r = _inverse_root(op, input_var, epsilon)
    return _per_channel(op, g_Y * xhat, input_var) * op.cast(scale, r.dtype) * (r * r) * -0.5


# -- InstanceNormalization: statistics of each image and channel ----------------------------------


@rule("InstanceNormalization", "input")
def _(op, g, input, scale, epsilon):
    axes = list(range(2, input.rank))
    xhat, r = _standardise(op, input, axes, epsilon)
    return _unstandardise(g * _channels(op, scale, input), xhat, r, axes)


@rule("InstanceNormalization", "scale")
def _(op, g, input, scale, epsilon):
    xhat, _r = _standardise(op, input, list(range(2, input.rank)), epsilon)
    return _per_channel(op, g * xhat, scale)


@rule("InstanceNormalization", "B")
def _(op, g, B):
    return _per_channel(op, g, B)


# -- LayerNormalization: statistics over the last axes ---------------------------------------------


def _layer_xhat(op, X, Mean, InvStdDev, axis, epsilon):
    """x̂ and r in the dtype in which the operator calculates; from its own outputs.

    Those are float32 even for an X of float64, which deserves better.
    """
    if X.dtype == ir.DataType.DOUBLE:
        return _standardise(op, X, _last_axes(axis, X), epsilon)
    return (op.cast(X, Mean.dtype) - Mean) * InvStdDev, InvStdDev


def _last_axes(axis, X):
    return list(range(shapes.axis_of(axis, X), X.rank))


@rule("LayerNormalization", "X")
def _(op, g_Y, g_Mean, g_InvStdDev, X, Scale, Mean, InvStdDev, axis, epsilon):
    axes, terms = _last_axes(axis, X), []
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
    g = shapes.unbroadcast(op.cast(g_Y, xhat.dtype) * xhat, X.shape, Scale)
    return op.cast(g, Scale.dtype)


@rule("LayerNormalization", "B")
def _(g_Y, g_Mean, g_InvStdDev, X, B):
    return None if g_Y is None else shapes.unbroadcast(g_Y, X.shape, B)
