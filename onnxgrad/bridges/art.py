"""A net as a classifier of the Adversarial Robustness Toolbox, for its attacks and defences."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from onnxgrad.bridges.frameworks import needs
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import ArgumentError, FeedError, UnknownNameError
from onnxgrad.graph.facts import may_agree
from onnxgrad.graph.names import resolve
from onnxgrad.heads.scores import class_score
from onnxgrad.losses.classification import cross_entropy
from onnxgrad.run.net import Net
from onnxgrad.run.requests import Value
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array
from onnxgrad.transforms.asked import outputs_of
from onnxgrad.transforms.probabilities import before_softmax
from onnxgrad.verify.tensors import tensors_of

with needs("art"):
    from art.estimators.classification.classifier import ClassifierNeuralNetwork

__all__ = ["Classifier"]


class Classifier(ClassifierNeuralNetwork):  # type: ignore[misc]
    """A classifier of ART on an .onnx, which gives the gradients that white-box attacks ask for.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        of: The scores by class, [N, C], floating-point: a name or a position. None for the model's
            one output or, where that is the result of a Softmax, for the scores before it, as the
            loss and the attacks of Carlini and Wagner need them.
        nb_classes, input_shape: How many classes there are, and the shape of one example: needed
            where the file does not tell them.
        clip_values, channels_first, preprocessing, preprocessing_defences, postprocessing_defences:
            As for ART's own classifiers.
        straight_through: As for `gradient`: True for the gradient of a quantised net.
        providers, threads: As for `Net`.

    Attributes:
        net: The `Net` that runs.
        layer_names: The floating-point tensors between inputs and outputs, in order.

    Raises:
        RuntimeMissingError: ART is not installed.
        ArgumentError: The net has not one input, or the number of classes or the shape of an
            example is not known, or the file has another; or there is one class alone.
        OnnxGradError: As `Net`.

    Example:
        >>> classifier = og.bridges.art.Classifier("models/digits.onnx", clip_values=(0, 1))
        >>> classifier.predict(np.load("models/digit.npy")).shape
        (1, 10)
    """

    def __init__(
        self,
        model: io.ModelLike,
        *,
        of: str | Sequence[Any] | None = None,
        nb_classes: int | None = None,
        input_shape: Sequence[int] | None = None,
        clip_values: Any = None,
        channels_first: bool = True,
        preprocessing: Any = (0.0, 1.0),
        preprocessing_defences: Any = None,
        postprocessing_defences: Any = None,
        straight_through: StraightThrough = False,
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
    ) -> None:
        source = io.load(model)
        self.net = Net(source, providers, threads=threads, straight_through=straight_through)
        if len(self.net.inputs) != 1:
            named = ", ".join(map(repr, self.net.inputs))
            raise ArgumentError(f"a classifier has one input, the examples, and this one {named}")
        self._source, self._scores = source, _scores(source, of)
        self._port = self.net.ports[self.net.inputs[0]]
        super().__init__(
            model=self.net,
            channels_first=channels_first,
            clip_values=clip_values,
            preprocessing=preprocessing,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
        )
        rows = {row.name: row for row in tensors_of(source)}
        floats = [r for r in rows.values() if r.dtype is not None and r.dtype.kind in "fV"]
        self._layer_names = [r.name for r in floats if r.kind == "inner"]
        self._dtype = rows[self._scores].dtype
        self._input_shape = _known("input_shape", input_shape, (self._port.shape or (None,))[1:])
        of_scores = rows[self._scores].shape or (None,)
        self.nb_classes = _count(self._scores, nb_classes, of_scores[-1:])

    def __repr__(self) -> str:
        return f"Classifier({self.net!r})"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self._input_shape

    def predict(self, x: Array, batch_size: int = 128, **_: Any) -> Array:
        """The scores by class, [N, C].

        Args:
            x: The examples, [N, ...], as they are before the preprocessing.
            batch_size: How many are computed at once; a size that the file fixes comes first.

        Raises:
            FeedError: The net does not take such examples.
        """
        found = self._values(self._scores, self._prepared(x), batch_size)
        return self._apply_postprocessing(preds=found, fit=False)

    def loss_gradient(self, x: Array, y: Array, batch_size: int = 128, **_: Any) -> Array:
        """The gradient of each example's own cross-entropy, of the shape and dtype of `x`.

        Args:
            x, batch_size: As for `predict`.
            y: The classes, [N], or their probabilities, [N, C].

        Raises:
            FeedError: As for `predict`, or for `y`.
        """

        def gradient(x: Array, labels: Array) -> Array:
            return self.net.gradient(self._labelled(x, labels), self._port.name, of=loss)

        loss = cross_entropy(self._scores, probabilities=True, reduction="sum")
        found = self._in_batches(gradient, batch_size, self._prepared(x), self._labels(y))
        return self._back(x, found)

    def class_gradient(self, x: Array, label: Any = None, batch_size: int = 128, **_: Any) -> Array:
        """The gradients of scores, [N, C, ...] for all classes, [N, 1, ...] for one each.

        Args:
            x, batch_size: As for `predict`.
            label: None for all classes, a class, or a class for each example.

        Raises:
            FeedError: As for `predict`, or there is no such class.
        """
        prepared, name = self._prepared(x), self._port.name
        if label is None:
            found = self._in_batches(
                lambda x: self.net.jacobian(x, name, of=self._scores, batched=True),
                batch_size,
                prepared,
            )
            classes = range(self.nb_classes)
            return np.stack([self._back(x, found[:, k]) for k in classes], axis=1)
        target = self._classes(label, len(x))
        score = class_score(self._scores, target="input:label")
        found = self._in_batches(
            lambda x, label: self.net.gradient({name: x, "label": label}, name, of=score),
            batch_size,
            prepared,
            target,
        )
        return self._back(x, found)[:, None]

    def compute_loss(
        self,
        x: Array,
        y: Array,
        reduction: Literal["none", "mean", "sum"] = "none",
        batch_size: int = 128,
        **_: Any,
    ) -> Array:
        """The cross-entropy, [N], or its mean or sum.

        Args:
            x, y, batch_size: As for `loss_gradient`.
            reduction: "none", "mean" or "sum".

        Raises:
            ArgumentError: There is no such reduction.
            FeedError: As for `predict`.
        """
        if reduction not in ("none", "mean", "sum"):
            raise ArgumentError(f"reduction is 'none', 'mean' or 'sum', not {reduction!r}")
        loss = cross_entropy(self._scores, probabilities=True, reduction="none")
        found = self._in_batches(
            lambda x, labels: self.net(self._labelled(x, labels), Value(loss)),
            batch_size,
            self._prepared(x),
            self._labels(y),
        )
        return found if reduction == "none" else getattr(np, reduction)(found)

    def get_activations(
        self, x: Array, layer: int | str, batch_size: int = 128, framework: bool = False
    ) -> Array:
        """The tensor of a layer, [N, ...].

        Args:
            x, batch_size: As for `predict`.
            layer: An index of `layer_names`, or the name of any tensor.
            framework: False; there are no tensors of a framework.

        Raises:
            UnknownNameError: There is no such layer.
            FeedError: As for `predict`.
            ArgumentError: `framework` is true, or `layer` neither an index nor a name.
        """
        if framework:
            raise ArgumentError("framework: an ONNX net has arrays alone; leave it False")
        if not isinstance(layer, int | np.integer | str):
            raise ArgumentError(f"layer is an index of layer_names or a name, not {layer!r}")
        names = self._layer_names
        if not isinstance(layer, str):
            if not -len(names) <= layer < len(names):
                raise UnknownNameError(f"layer {layer}: there are {len(names)}, see layer_names")
            layer = names[layer]
        return self._values(layer, self._prepared(x), batch_size)

    def fit(self, x: Array, y: Array, **_: Any) -> None:
        """Refused: an ONNX net is trained by `onnxgrad.train`.

        Raises:
            ArgumentError: Always.
        """
        raise ArgumentError("fit: train the net with onnxgrad.train, and make a Classifier of it")

    def save(self, filename: str, path: str | None = None) -> None:
        """Write the model.

        Args:
            filename: The name of the file.
            path: Its folder.

        Raises:
            SaveError: It cannot be written.
        """
        io.save(self._source, os.path.join(path or "", filename))

    def _prepared(self, x: Array) -> Array:
        """The examples as the net takes them."""
        prepared, _ = self._apply_preprocessing(np.asarray(x), None, fit=False)
        return prepared if self._port.dtype is None else prepared.astype(self._port.dtype)

    def _back(self, x: Array, gradients: Array) -> Array:
        """Gradients at the examples, of those at what the net takes."""
        found = self._apply_preprocessing_gradient(x, gradients)
        return found.astype(x.dtype) if np.asarray(x).dtype.kind == "f" else found

    def _labels(self, y: Array) -> Array:
        """The probabilities of the classes.

        Raises:
            FeedError: They are neither classes nor probabilities.
        """
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] == self.nb_classes:
            return y
        count = y.shape[0] if y.ndim else -1
        return np.eye(self.nb_classes)[
            self._classes(y.reshape(count) if y.ndim and y.size == count else y, count)
        ]

    def _classes(self, label: Any, count: int) -> Array:
        """A class for each example.

        Raises:
            FeedError: There are others, or not as many.
        """
        given = np.asarray(label)
        if given.shape not in ((), (count,)) or not np.isin(given, range(self.nb_classes)).all():
            raise FeedError(
                f"The classes are 0 to {self.nb_classes - 1}, one for each of {count} examples; y "
                f"may be probabilities too, [N, {self.nb_classes}]. {given.dtype.name} of shape "
                f"{given.shape} was given: {np.array2string(given, threshold=9, edgeitems=3)}."
            )
        return np.broadcast_to(given.astype(np.int64), (count,))

    def _labelled(self, x: Array, labels: Array) -> dict[str, Array]:
        return {self._port.name: x, "labels": labels.astype(self._dtype)}

    def _values(self, name: str, prepared: Array, batch_size: int) -> Array:
        return self._in_batches(lambda x: self.net(x, Value(name)), batch_size, prepared)

    def _in_batches(self, call: Callable[..., Array], batch_size: int, *arrays: Array) -> Array:
        """The results of a function for each example, which is called for some at once.

        Where the file fixes their number, the last call is filled up with zeros.
        """
        fixed = (self._port.shape or (None,))[0]
        size = fixed if isinstance(fixed, int) else batch_size
        found = []
        for start in range(0, max(len(arrays[0]), 1), size):
            parts = [a[start : start + size] for a in arrays]
            count = len(parts[0])
            if isinstance(fixed, int):
                parts = [_filled(part, fixed) for part in parts]
            found.append(call(*parts)[:count])
        return np.concatenate(found)


def _scores(net: Any, of: str | Sequence[Any] | None) -> str:
    """The name of the scores by class."""
    if of is not None:
        return resolve(net, of)
    names = outputs_of(net)
    if len(names) != 1:
        raise ArgumentError(f"of: name the scores by class, one of {', '.join(map(repr, names))}")
    return before_softmax(net) or names[0]


def _known(
    argument: str, given: Sequence[int] | None, declared: Sequence[int | str | None]
) -> tuple[int, ...]:
    """Sizes that are given, or else those that the file declares."""
    sizes = tuple(declared if given is None else given)
    if not may_agree(sizes, declared if declared != (None,) else None):
        raise ArgumentError(f"{argument}: the file has {tuple(declared)}, not {sizes}")
    if not all(isinstance(size, int) for size in sizes):
        raise ArgumentError(f"{argument}: the file does not tell it, but {sizes}; give it")
    return tuple(int(size) for size in sizes if size is not None)


def _count(scores: str, given: int | None, declared: Sequence[int | str | None]) -> int:
    """The number of classes, of which ART has two at least."""
    (count,) = _known("nb_classes", None if given is None else [given], declared)
    if count < 2:
        raise ArgumentError(
            f"{scores!r} has {count} score for each example, and a classifier of ART has two "
            "classes at least: name others by of=, or attach the score of the other class"
        )
    return count


def _filled(part: Array, size: int) -> Array:
    """Rows filled up with zeros to their number."""
    rows = np.zeros((size - len(part), *part.shape[1:]), part.dtype)
    return np.concatenate([part, rows])
