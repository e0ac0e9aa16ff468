"""DeepLIFT, and its mean over many baselines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import onnx_ir as ir
from typing_extensions import Unpack

from onnxgrad.emit import shapes
from onnxgrad.emit.builder import Builder
from onnxgrad.emit.subgraphs import scan
from onnxgrad.emit.tensor import Tensor
from onnxgrad.explain.baselines import Reference, baselines_of, distributions_of
from onnxgrad.explain.method import Explaining, Explanation, method
from onnxgrad.explain.rescale import rescale
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.graph.facts import dims_of
from onnxgrad.transforms.options import Wrt


@method
def deep_lift(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    baselines: Any = None,
    multiply_by_inputs: bool = True,
    eps: float = 1e-10,
    convergence_delta: bool = False,
    **options: Unpack[Explaining],
) -> None:
    """A model that also says how much the difference from a baseline counts, element by element.

    DeepLIFT with the rescale rule: Shrikumar et al. 2017, "Learning Important Features Through
    Propagating Activation Differences"; captum's DeepLift. The attributions of an example sum to
    the difference of its score from that of the baseline, for the class of the example.

    A multiplier takes the place of the derivative in every function of one operand, in maxima, in
    normalisation and attention, and, by the mean of both orders, in products and quotients of two
    activations. Of these captum takes only Relu, Elu, LeakyRelu, Sigmoid, Tanh, Softplus, Softmax
    and MaxPool. Its numbers are the same, with two exceptions where they do not sum up: windows of
    a MaxPool that overlap, of which it keeps one contribution for each element, and two such
    operators in a row, as Relu and MaxPool, of which the first does not see what the second has
    made of its cotangent.

    As in captum, the mean is subtracted from the multipliers of a Softmax of a matrix, here of each
    row, there over the whole batch: such a Softmax does not sum up. Nor do other operators, of
    which the derivative is taken, such as InstanceNormalization, LSTM, QLinearConv and, with
    `straight_through`, ConvInteger, those in branches and loops, and integers that choose, as those
    of TopK. `convergence_delta` tells how far off the sums are.

    Args:
        model, wrt, of, target, ...: As for `saliency`.
        baselines: What the tensors of `wrt` are compared with: None for 0, a number, an array that
            broadcasts to the tensor, or "input" for a new graph input `<x>_baseline` of its shape
            and dtype; or a tuple of these, one for each tensor of `wrt`, or a dict by their names.
        multiply_by_inputs: Give the multipliers times the differences from the baselines, or the
            multipliers alone.
        eps: Where an activation differs by less, its derivative takes the place of a multiplier.
        convergence_delta: Also give an output "convergence_delta" of shape [N]: the sum of the
            attributions of an example less the difference of its scores.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `saliency`.
        ArgumentError: A baseline does not fit its tensor.

    Example:
        >>> model = og.explain.deep_lift("models/mlp.onnx", baselines="input")
        >>> [x.name for x in model.graph.input]
        ['input', 'input_baseline']
    """
    explanation = Explanation(net, wrt, **options)
    lift = _Lift(explanation, multiply_by_inputs, eps, convergence_delta)
    given = baselines_of(explanation.op, explanation.job.wrt, baselines)
    explanation.finish(*lift.between(explanation.op, given))


@method
def deep_lift_shap(
    net: ir.Model,
    wrt: Wrt = None,
    *,
    baselines: Any,
    multiply_by_inputs: bool = True,
    eps: float = 1e-10,
    convergence_delta: bool = False,
    **options: Unpack[Explaining],
) -> None:
    """A model that also gives the mean of `deep_lift` over many baselines.

    It approximates SHAP values: Lundberg and Lee 2017, "A Unified Approach to Interpreting Model
    Predictions"; captum's DeepLiftShap. Each example is compared with each baseline. The baselines
    are taken one after the other, so that their number does not count for the memory.

    Args:
        model, wrt, of, target, ...: As for `saliency`.
        baselines: M of them, for a tensor [N, ...] an array [M, ...] or "input" for a new graph
            input `<x>_baselines` of that shape; or a tuple of these, one for each tensor of `wrt`,
            or a dict by their names.
        multiply_by_inputs, eps: As for `deep_lift`.
        convergence_delta: Also give an output "convergence_delta" of shape [N, M], with the one of
            each example and each baseline.

    Returns:
        A model of the same kind, with outputs and metadata as for `saliency`.

    Raises:
        OnnxGradError: As for `saliency`.
        ArgumentError: The baselines do not fit their tensor.

    Example:
        >>> model = og.explain.deep_lift_shap("models/mlp.onnx", baselines="input")
        >>> [x.name for x in model.graph.input]
        ['input', 'input_baselines']
    """
    explanation = Explanation(net, wrt, **options)
    op, lift = explanation.op, _Lift(explanation, multiply_by_inputs, eps, convergence_delta)
    given = distributions_of(op, explanation.job.wrt, baselines)
    zeros = [shapes.full_like(op.promoted(op.tensor(x)), 0) for x in given]

    def step(inner: Builder, *read: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        sums, one = list(read[: len(given)]), read[len(given) :]
        whole = [shapes.expand_like(b, inner.tensor(x)) for x, b in zip(given, one, strict=True)]
        found, delta = lift.between(inner, dict(zip(given, whole, strict=True)))
        sums = [s + inner.promoted(found[x]) for x, s in zip(given, sums, strict=True)]
        return sums, [] if delta is None else [delta]

    sums, deltas = scan(op, step, zeros, list(given.values()), hoists=True)
    count = shapes.dim(next(iter(given.values())), 0)
    means = [
        op.cast(shapes.divided(s, count), op.tensor(x).dtype)
        for x, s in zip(given, sums, strict=True)
    ]
    delta = op.Transpose(deltas[0]) if deltas else None
    explanation.finish(dict(zip(given, means, strict=True)), delta)


class _Lift:
    """DeepLIFT of one explanation, between its input and baselines.

    Args:
        explanation: Has the net and the score.
        multiply_by_inputs, eps, convergence_delta: As for `deep_lift`.

    Raises:
        ArgumentError: `eps` is not positive, or what is to be compared has no examples.
    """

    def __init__(
        self,
        explanation: Explanation,
        multiply_by_inputs: bool,
        eps: float,
        convergence_delta: bool,
    ) -> None:
        if not eps > 0:
            raise ArgumentError(f"eps is a positive number, not {eps!r}")
        self._explanation, self._eps = explanation, eps
        self._multiply, self._delta = multiply_by_inputs, convergence_delta
        job = explanation.job
        if convergence_delta:
            _require_examples([*job.of, *job.wrt])

    def between(
        self, op: Builder, baselines: dict[ir.Value, Tensor]
    ) -> tuple[dict[ir.Value, Tensor], Tensor | None]:
        """The attributions by tensor; where asked for, how far off their sums are."""
        job = self._explanation.job
        reference = Reference(job, op, baselines)
        multipliers = self._explanation.gradients(rescale(reference.copies, self._eps), op)
        products = {x: m * (op.tensor(x) - baselines[x]) for x, m in multipliers.items()}
        found = products if self._multiply else multipliers
        if not self._delta:
            return found, None
        scores = [op.tensor(y) - reference.at(y) for y in job.of]
        sums, differences = (
            op.sum([shapes.reduce_sum(t, shapes.axes_from(t, 1)) for t in tensors])
            for tensors in (products.values(), scores)
        )
        return found, sums - differences


def _require_examples(values: Iterable[ir.Value]) -> None:
    """Raise for tensors whose first axes are not the same examples, as far as is known.

    Raises:
        ArgumentError: They are not.
    """
    known = {v.name: (dims_of(v) or (None,))[0] for v in values}
    weights = [v.name for v in values if v.is_initializer() or dims_of(v) == ()]
    if weights or len({d for d in known.values() if isinstance(d, int)}) > 1:
        raise ArgumentError(
            "convergence_delta: it is a number for each example, and the first axes of "
            f"{', '.join(map(repr, weights or known))} are not the examples"
        )
