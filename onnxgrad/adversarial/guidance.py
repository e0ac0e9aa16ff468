"""Classifier guidance: a classifier's gradient added to what a diffusion model gives out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.tensor import Tensor
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import by_name
from onnxgrad.graph.guard import guarded
from onnxgrad.graph.names import resolve
from onnxgrad.heads import log_probability
from onnxgrad.heads.head import Place
from onnxgrad.heads.targets import Target
from onnxgrad.passes.clean_up import optimise
from onnxgrad.transforms.asked import float_outputs
from onnxgrad.transforms.attach import attach, composed
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.metadata import GRADIENTS, table
from onnxgrad.transforms.options import Traced, uncollected

Prediction = Literal["epsilon", "score"]


@guarded
def guidance(
    model: Any,
    classifier: Any,
    x: Place = None,
    *,
    of: Place = None,
    logits: Place = None,
    target: Target = "input",
    prediction: Prediction = "epsilon",
    inputs: Mapping[str, Any] | None = None,
    forward: bool = True,
    **options: Unpack[Traced],
) -> Any:
    """A diffusion model whose prediction is guided toward a class by a classifier's gradient.

    For a model that predicts the noise the result is ``of - sigma * scale * gradient``. The
    gradient is that of log p(class | x, t) with respect to x, and sigma is the deviation of the
    noise in x, ``sqrt(1 - alpha_bar)`` (Dhariwal and Nichol 2021, algorithm 2). For a model that
    predicts the score it is ``of + scale * gradient``.

    Args:
        model: The diffusion model: a path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`;
            it is not changed.
        classifier: A classifier of noisy examples: likewise.
        x: The classifier's input that is differentiated; None for its one floating-point input.
        of: The model's prediction; None for its one floating-point output. Where it has twice as
            many channels as `x`, the variance behind the noise, the first half is guided.
        logits: The classifier's scores before a Softmax; None for its one output.
        target: The class, as for `heads.class_score`.
        prediction: What `of` is: "epsilon", the noise, or "score", the gradient of log p(x).
        inputs: The model's tensors by the names of the classifier's inputs, `x` too; None for those
            of the same names. Other inputs of the classifier become inputs of the result.
        forward: Keep the model's own outputs, first and in their order.
        straight_through, constant, example: As for `gradient`, of the classifier.

    Returns:
        A model of the kind of `model` (for a path a `ModelProto`), in opset 18 or newer, with one
        more output `<of>_guided` of the shape and dtype of `of`. It has the new inputs "target",
        int64 [N], where the class is an input; "scale", a scalar of the dtype of `of`; and for the
        noise "sigma" likewise, unless the model has a tensor of that name: a scalar, or with a
        number for each example.

    Raises:
        ArgumentError: An argument is none of these, the models do not fit, or a name is taken. Else
            as for `gradient` and `attach`.

    Example:
        >>> def score(op, x):
        ...     return {"score": -x}
        >>> model = og.attach("models/digits.onnx", score, "image")
        >>> model = og.adversarial.guidance(
        ...     model, "models/digits.onnx", of="score", prediction="score", forward=False
        ... )
        >>> [x.name for x in model.graph.input], [y.name for y in model.graph.output]
        (['image', 'target', 'scale'], ['score_guided'])
    """
    if prediction not in get_args(Prediction):
        raise ArgumentError(f"prediction is 'epsilon' or 'score', not {prediction!r}")
    with uncollected():
        net = io.load(model)
        guided_name = _prediction(net, of)
        head = log_probability(logits, target)
        wrt = None if x is None else [x]
        other = gradient(io.load(classifier), wrt, of=head, forward=False, **options)
        source, moved = _gradient(other)
        formula, shared = composed(net, other, inputs)
        if source not in (by_name(net.graph) if inputs is None else inputs):
            raise ArgumentError(
                f"the model has no tensor {source!r}: name in inputs the one that the classifier's "
                f"{source!r} is"
            )
        sigma = ["sigma"] if prediction == "epsilon" and "sigma" in by_name(net.graph) else []

        def guided(op: Builder, y: Tensor, *tensors: Tensor) -> dict[str, Tensor]:
            g = _like(formula(op, *tensors[: len(shared)])[moved], y)
            scale = op.input("scale", [], y.dtype)
            if prediction == "score":
                return {f"{guided_name}_guided": y + g * scale}
            given = tensors[len(shared)] if sigma else op.input("sigma", [], y.dtype)
            return {f"{guided_name}_guided": y - g * (_per_example(given, y) * scale)}

        net = attach(net, guided, [guided_name, *shared, *sigma])
        if not forward:
            del net.graph.outputs[:-1]
            optimise(net)
        return io.like(net, model)


def _prediction(net: ir.Model, of: Place) -> str:
    """The name of the tensor that is guided.

    Raises:
        ArgumentError: It is not named, and the model has several outputs.
    """
    if of is not None:
        return resolve(net, of)
    names = float_outputs(net)
    if len(names) > 1:
        raise ArgumentError(
            f"the model has several outputs, {', '.join(map(repr, names))}: name its prediction "
            "in of"
        )
    return names[0]


def _gradient(classifier: ir.Model) -> tuple[str, str]:
    """The input that a classifier gives the gradient of, and the name of that gradient.

    Raises:
        ArgumentError: There are several.
    """
    found: dict[str, str] = table(classifier, GRADIENTS)
    if len(found) > 1:
        raise ArgumentError(
            f"the classifier has several floating-point inputs, {', '.join(map(repr, found))}: "
            "name the one to differentiate in x"
        )
    return next(iter(found.items()))


def _like(g: Tensor, y: Tensor) -> Tensor:
    """The gradient with the dtype and the channels of a prediction: none for a variance behind it.

    Raises:
        ArgumentError: It has another shape.
    """
    mine, its = list(g.shape or ()), list(y.shape or ())
    if len(mine) == len(its) > 1 and isinstance(mine[1], int) and its[1] == 2 * mine[1]:
        g = shapes.pad(g, {1: (0, mine[1])})
        mine[1] = its[1]
    numbers = [(a, b) for a, b in zip(mine, its, strict=False) if isinstance(a, int)]
    if len(mine) != len(its) or any(isinstance(b, int) and a != b for a, b in numbers):
        raise ArgumentError(
            f"the classifier's x is of shape {mine}, and the prediction {y.value.name!r} of {its}"
        )
    return y.op.cast(g, y.dtype)


def _per_example(sigma: Tensor, y: Tensor) -> Tensor:
    """A number, or one for each example, of the dtype and with the axes of a prediction."""
    op = y.op
    if sigma.rank == 1:
        sigma = op.Unsqueeze(sigma, op.const(range(1, y.rank)))
    return op.cast(sigma, y.dtype)
