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

    Where captum keeps the derivative, which makes this sum wrong, a multiplier is taken of every
    function of one operand, such as Gelu, a Clip or Log; of maxima; and of products and quotients
    of two activations, by the mean of both orders. In a MaxPool the contributions of windows that
    overlap are summed, of which captum keeps one. As in captum, a Softmax has its mean multiplier
    subtracted, here over its axis, there over the whole batch. That Softmax, normalisation by
    statistics of the input, LSTM and its kin, and what lies in branches and loops, for which the
    derivative is taken, do not keep the sum; `convergence_delta` tells by how much.

    Args:
        model, wrt, of, target, ...: As for `saliency`.
        baselines: What the tensors of `wrt` are compared with: None for 0, a number, an array that
            broadcasts to the tensor, or "input" for a new graph input `<x>_baseline` of its shape
            and dtype; or a dict of these by the tensors' names.
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
    lift = _Lift(explanation, multiply_by_inputs, eps)
    found, delta = lift.between(
        explanation.op, baselines_of(explanation.op, explanation.job.wrt, baselines)
    )
    explanation.finish(found, {"convergence_delta": delta} if convergence_delta else {})


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
            input `<x>_baselines` of that shape; or a dict of these by the tensors' names.
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
    op, lift = explanation.op, _Lift(explanation, multiply_by_inputs, eps)
    given = distributions_of(op, explanation.job.wrt, baselines)
    wrt_values = list(given)

    def step(inner: Builder, *slices: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        sums, one = slices[: len(given)], slices[len(given) :]
        expanded = {
            x: shapes.expand_like(t, inner.tensor(x)) for x, t in zip(wrt_values, one, strict=True)
        }
        found, delta = lift.between(inner, expanded)
        after = [s + inner.promoted(found[x]) for s, x in zip(sums, wrt_values, strict=True)]
        return after, [delta] if convergence_delta else []

    zeros = [shapes.full_like(op.promoted(op.tensor(x)), 0) for x in wrt_values]
    sums, deltas = scan(op, step, zeros, list(given.values()), hoists=True)
    count = shapes.dim(next(iter(given.values())), 0)
    means = {
        x: op.cast(shapes.divided(s, count), op.tensor(x).dtype)
        for x, s in zip(wrt_values, sums, strict=True)
    }
    by_example = [op.Transpose(d, perm=[*range(1, d.rank), 0]) for d in deltas]
    explanation.finish(means, dict(zip(["convergence_delta"], by_example, strict=False)))


class _Lift:
    """DeepLIFT of one explanation, between its input and baselines.

    Raises:
        ArgumentError: `eps` is not positive.
    """

    def __init__(self, explanation: Explanation, multiply_by_inputs: bool, eps: float) -> None:
        if not eps > 0:
            raise ArgumentError(f"eps is a positive number, not {eps!r}")
        self._explanation, self._eps = explanation, eps
        self._multiply = multiply_by_inputs

    def between(
        self, op: Builder, baselines: dict[ir.Value, Tensor]
    ) -> tuple[dict[ir.Value, Tensor], Tensor]:
        """The attributions by tensor, and by how much they miss the difference of the scores."""
        reference = Reference(self._explanation.job, op, baselines)
        multipliers = self._explanation.gradients(rescale(reference.copies, self._eps), op)
        products = {x: m * (op.tensor(x) - baselines[x]) for x, m in multipliers.items()}
        scores = [op.tensor(y) - reference.at(y) for y in self._explanation.job.of]
        missed = op.sum(_by_example(products.values())) - op.sum(_by_example(scores))
        return products if self._multiply else multipliers, missed


def _by_example(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The sum of each tensor over all axes but the first."""
    return [shapes.reduce_sum(t, shapes.axes_from(t, 1)) for t in tensors]
