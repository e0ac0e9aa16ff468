"""A net as the function that PAIR's saliency methods call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from onnxgrad.bridges.frameworks import needs
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.names import resolve
from onnxgrad.heads.head import Head
from onnxgrad.heads.scores import class_score
from onnxgrad.run.net import Net
from onnxgrad.run.requests import NetPortGradient, Value
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array, Port

with needs("saliency"):
    from saliency.core.base import (
        CONVOLUTION_LAYER_VALUES,
        CONVOLUTION_OUTPUT_GRADIENTS,
        INPUT_OUTPUT_GRADIENTS,
        OUTPUT_LAYER_VALUES,
    )

__all__ = ["call_model_function"]


def call_model_function(
    model: io.ModelLike,
    *,
    of: str | Sequence[Any] | None = None,
    layer: str | Sequence[Any] | None = None,
    channels_first: bool = True,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    straight_through: StraightThrough = False,
) -> Callable[..., dict[str, Array]]:
    """The function `call_model_function` of PAIR's saliency, for a net of one input.

    Called with ``(x_value_batch, call_model_args, expected_keys)`` it gives what the keys ask for,
    all in one run. ``call_model_args={"target": 3}`` names the class whose score is explained;
    without it that is the highest of each example.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        of: The scores by class; None for the model's one output.
        layer: The tensor of a layer of convolutions, for `GradCam`.
        channels_first: Whether the net takes [N, C, H, W]. PAIR's methods have the channels last:
            examples of three axes, their gradients and the layer are moved.
        providers, threads: As for `Net`.
        straight_through: As for `gradient`.

    Raises:
        RuntimeMissingError: PAIR's saliency is not installed.
        ArgumentError: The net has more than one input; where it is called: there is no such key, or
            no layer.
        OnnxGradError: As `Net`.

    Example:
        >>> import saliency.core as saliency
        >>> call = og.bridges.saliency.call_model_function("models/digits.onnx")
        >>> image = np.load("models/digit.npy")[0].transpose(1, 2, 0)
        >>> saliency.GradientSaliency().GetMask(image, call, {"target": 3}).shape
        (8, 8, 1)
    """
    net = io.load(model)
    runner = Net(net, providers, threads=threads, straight_through=straight_through)
    if len(runner.inputs) != 1:
        named = ", ".join(map(repr, runner.inputs))
        raise ArgumentError(f"PAIR's methods are for a net of one input, and this one has {named}")
    (name,) = runner.inputs
    return _Call(runner, runner.ports[name], of, layer and resolve(net, layer), channels_first)


class _Call:
    """What PAIR's methods call."""

    def __init__(self, net: Net, port: Port, of: Any, layer: Any, channels_first: bool) -> None:
        self._net, self._port, self._of, self._layer = net, port, of, layer
        self._channels_first = channels_first

    def __call__(
        self,
        x_value_batch: Any,
        call_model_args: Mapping[str, Any] | None = None,
        expected_keys: Sequence[str] | None = None,
    ) -> dict[str, Array]:
        """What the keys ask for, by key.

        Raises:
            ArgumentError: There is no such key, or no layer.
            FeedError: The net does not take such examples, or there is no such class.
        """
        x, target = np.asarray(x_value_batch), (call_model_args or {}).get("target")
        if self._channels_first and x.ndim == 4:
            x = np.moveaxis(x, -1, 1)
        feeds = {self._port.name: x if self._port.dtype is None else x.astype(self._port.dtype)}
        if not expected_keys:
            return {}
        if target is not None:
            classes = np.asarray(target)
            if classes.dtype.kind not in "iu" or classes.shape not in ((), (len(x),)):
                raise FeedError(
                    f"target is the number of a class, or one for each of the {len(x)} examples, "
                    f"not {target!r}."
                )
            feeds["target"] = np.broadcast_to(classes.astype(np.int64), (len(x),))
        score = class_score(self._of, "argmax" if target is None else "input")
        asked = {key: self._request(key, score) for key in expected_keys}
        gradients = any(isinstance(one, NetPortGradient) for one in asked.values())
        found = self._net(feeds, list(asked.values()), of=score if gradients else None)
        results = found.values() if isinstance(found, Mapping) else found
        return {key: self._placed(y) for key, y in zip(asked, results, strict=True)}

    def _request(self, key: str, score: Head) -> NetPortGradient | Value:
        """What is asked for by a key."""
        if key == OUTPUT_LAYER_VALUES:
            return Value(score)
        if key == INPUT_OUTPUT_GRADIENTS:
            return NetPortGradient(self._port.name)
        if key not in (CONVOLUTION_LAYER_VALUES, CONVOLUTION_OUTPUT_GRADIENTS):
            raise ArgumentError(f"expected_keys: PAIR has no key {key!r}")
        if self._layer is None:
            raise ArgumentError(f"{key} needs a layer: name its tensor in call_model_function")
        return (
            Value(self._layer) if key == CONVOLUTION_LAYER_VALUES else NetPortGradient(self._layer)
        )

    def _placed(self, y: Array) -> Array:
        """A result with its channels last."""
        return np.moveaxis(y, 1, -1) if self._channels_first and y.ndim == 4 else y
