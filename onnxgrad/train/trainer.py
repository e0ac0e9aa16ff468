"""A training loop over a net that is an ONNX file."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxgrad.graph import io
from onnxgrad.graph.counts import counted
from onnxgrad.graph.errors import ArgumentError, FeedError
from onnxgrad.graph.guard import guarded_methods
from onnxgrad.heads.head import Head
from onnxgrad.run.progress import progress_bar
from onnxgrad.run.sessions import hold_weights
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array
from onnxgrad.runtimes.registry import start
from onnxgrad.train.artifacts import parts
from onnxgrad.train.checkpoints import Checkpoint, require_same, training
from onnxgrad.train.data import (
    Batch,
    Source,
    checked,
    declared_batch,
    examples_in,
    padded,
    source,
)
from onnxgrad.train.data import (
    batch_size as size_of,
)
from onnxgrad.train.export import export
from onnxgrad.train.finite import finite_rate, require_finite
from onnxgrad.train.loaded import RATE, Loaded
from onnxgrad.train.metrics import Metric
from onnxgrad.train.optimizers import Optimizer
from onnxgrad.train.schedules import Schedule
from onnxgrad.train.stopping import EarlyStopping
from onnxgrad.transforms.options import Wrt

Record: TypeAlias = dict[str, float]


@guarded_methods
class Trainer:
    """Trains a net with a runtime of ONNX: the whole step is one model, and its state stays there.

    The state has two places in the runtime's memory, which a step reads and writes in turn. The
    models for training, evaluation and prediction share it, and all weights that are not trained.

        trainer = Trainer("net.onnx", losses.cross_entropy("logits"), AdamW())
        trainer.fit((images, labels), 5, validation=(others, their_labels))
        trainer.save("trained.onnx")

    With ``batch_norm="train"`` or ``dropout="train"`` a step computes as in training, and all else
    as in inference, also where the file has another mode. Otherwise all compute as in the file.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`; it is not changed.
        loss, optimizer, wrt: As for `train.step`.
        metrics: By name what `evaluate` gives besides the loss: heads such as
            ``accuracy("logits")``, or functions ``metric(outputs, batch)`` of arrays by name.
        seed: Seeds the order of the examples, and what Dropout drops with ``dropout="train"``.
        runtime, providers, threads, options, run_options: As for `onnxgrad.Net`.
        step: The options of `train.step`, by name. The noise of a `privacy` is drawn anew for each
            step, from the operating system's randomness; see `DPSGD`.

    Attributes:
        epoch: How many epochs are done.
        batch: How many batches of the next one are done.
        steps: How many batches are done in all.
        history: A record for each epoch, a dict: "loss", the mean over its examples, "lr", the last
            rate, and of a validation "val_loss" and the metrics, as "val_accuracy".

    Raises:
        OnnxGradError: As for `train.step`.
        RuntimeMissingError: The runtime is not installed.

    Example:
        >>> x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
        >>> trainer = og.train.Trainer(
        ...     "models/mlp.onnx", og.losses.cross_entropy("logits"), og.train.AdamW(lr=0.1))
        >>> history = trainer.fit((x, (x[:, 0] > 0).astype(np.int64)), 5)
        >>> history[-1]["loss"] < history[0]["loss"]
        True
    """

    def __init__(
        self,
        model: Any,
        loss: Any,
        optimizer: Optimizer,
        wrt: Wrt = None,
        *,
        metrics: Mapping[str, Metric] | None = None,
        seed: int = 0,
        runtime: str = "onnxruntime",
        providers: Sequence[Provider] | None = None,
        threads: int | None = None,
        options: Mapping[str, Any] | None = None,
        run_options: Mapping[str, Any] | None = None,
        **step: Any,
    ) -> None:
        sessions = {"options": options, "run_options": run_options}
        self._runtime = start(runtime, providers=providers, threads=threads, **sessions)
        self._kind, self._model = model, io.load(model)
        self._files = io.data_files(self._model)
        hold_weights(self._model)
        scored, seed = dict(metrics or {}), counted("seed", seed, 0)
        if "loss" in scored:
            raise ArgumentError("a metric is called 'loss', as the loss is: give it another name")
        heads = {name: m for name, m in scored.items() if isinstance(m, Head)}
        self._heads = ["loss", *heads]
        self._functions = {name: m for name, m in scored.items() if not isinstance(m, Head)}
        step = {"grad_norm": True, "seed": seed} | step | {"finite": True}
        made = parts(self._model, loss, optimizer, wrt, metrics=heads, **step)
        self._training = training(made, optimizer)
        self.nets = Loaded(made, self._runtime)  # the models, as the runtime has loaded them
        self._accumulate = step.get("accumulate", 1)
        self._scaled = step.get("loss_scale") is not None
        self._privacy = step.get("privacy")
        self._lr, self._seed = optimizer.lr, seed
        self._best: dict[str, Array] | None = None  # of the epochs of one `fit`, and its resume
        self._since, self._resumed = 0, False  # the first of these epochs
        self._sum, self._seen = 0.0, 0
        self.epoch = self.batch = self.steps = 0
        self.history: list[Record] = []

    @property
    def state(self) -> dict[str, Array]:
        """A copy of the state, by name: the weights, what the optimizer keeps, the count."""
        return self.nets.carried.arrays()

    @state.setter
    def state(self, state: Mapping[str, Array]) -> None:
        """Go on from a state, all of it or a part, such as the weights.

        Raises:
            ArgumentError: It is of another model or optimizer.
        """
        self.nets.go_on_from(state)

    def fit(
        self,
        data: Any,
        epochs: int = 1,
        *,
        batch_size: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        validation: Any = None,
        schedule: Schedule | None = None,
        early_stopping: EarlyStopping | None = None,
        callbacks: Sequence[Callable[[Trainer, Record], Any]] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> list[Record]:
        """Train.

        It begins an epoch anew where the last call was broken off in the middle of one; only
        `resume` goes on in the middle.

        Args:
            data: Arrays with the batch along the first axis: a dict by the names of the inputs, the
                labels among them, or a tuple in their order, labels last; the path of an .npz file
                of such arrays; or an iterable of batches, gone through once an epoch.
            epochs: How many epochs in all. Those that are done count, by this trainer or by the one
                whose checkpoint it has read.
            batch_size: The number of examples of a step; None for the one that the model declares,
                else 32.
            shuffle: Draw the order of the examples anew in each epoch, by the trainer's seed.
            drop_last: Leave out the last batch of an epoch where it is smaller.
            validation: Data to evaluate after each epoch.
            schedule: The learning rate, a function of the number of batches that have been trained
                on, from 0 on; None for the optimizer's.
            early_stopping: When to stop before; the epochs of this call count, and of the one
                whose checkpoint `resume` has read.
            callbacks: Called as ``callback(trainer, record)`` after each epoch; True ends training.
            checkpoint: A file to write after each epoch, for `resume`.
            progress: Show a bar; None where the standard error is a terminal.

        Returns:
            The records of all epochs, `history`.

        Raises:
            TrainingError: The loss, the gradient, the learning rate or the next state is not
                finite; the state before that batch is kept.
            FeedError: The data does not fit the model, or a label is out of range.
            SaveError: The checkpoint cannot be written; the older one is still there.
        """
        if checkpoint is not None:
            io.require_apart(self._kind, self._files, [checkpoint], "a checkpoint")
        given, size = self._source(data, batch_size, drop_last)
        epochs = counted("epochs", epochs, 0)
        rate = schedule or (lambda step: self._lr)
        self._begin(early_stopping)
        self._require_update(given.count, epochs)
        while self.epoch < epochs and not self._is_late(early_stopping):
            record = self._epoch(given, rate, shuffle, progress, epochs)
            if validation is not None:
                found = self.evaluate(validation, batch_size=size, drop_last=drop_last)
                record |= {f"val_{name}": value for name, value in found.items()}
            self.history.append(record)
            self.epoch, self.batch, self._sum, self._seen = self.epoch + 1, 0, 0.0, 0
            if early_stopping and early_stopping.restore_best:
                self._keep_best(early_stopping)
            if checkpoint is not None:
                self.checkpoint(checkpoint)
            if True in [callback(self, record) for callback in callbacks]:
                break
        if self._best is not None:
            self.state, self._best = self._best, None
        return self.history

    def steps_of(self, data: Any, batch_size: int | None = None, *, drop_last: bool = False) -> int:
        """How many steps an epoch over some data has, as a schedule asks for.

        Raises:
            ArgumentError: Nothing tells, as the data is an iterable without a length.
        """
        count = self._source(data, batch_size, drop_last)[0].count
        if count is None:
            raise ArgumentError("the data has no length, so nothing tells the number of its steps")
        return count

    def _source(self, data: Any, batch_size: int | None, drop_last: bool) -> tuple[Source, int]:
        """Where the batches of an epoch come from, and their size."""
        size, ports = size_of(self.nets.unlabelled, batch_size), self.nets.batch
        whole = declared_batch(self.nets.unlabelled) == size
        return source(data, list(ports), size, drop_last, whole), size

    def _begin(self, early: EarlyStopping | None) -> None:
        """Forget what an earlier `fit` has left; only what `resume` has read is gone on from."""
        restores = early is not None and early.restore_best
        if not self._resumed:
            self.batch, self._sum, self._seen = 0, 0.0, 0
        if not self._resumed or (restores and self._best is None):
            self._since = self.epoch
        if not self._resumed or not restores:
            self._best = None
        self._resumed = False

    def _require_update(self, batches: int | None, epochs: int) -> None:
        """Warn where all batches that are left are fewer than one update takes."""
        if batches is None or self.epoch >= epochs or self._accumulate == 1:
            return
        left = batches * (epochs - self.epoch) - self.batch
        if left + int(self.state["accumulated"]) < self._accumulate:
            warnings.warn(
                f"accumulate={self._accumulate}: the {left} batches that are left make no update, "
                "so the weights stay as they are. Give more epochs, or a smaller batch_size.",
                stacklevel=3,
            )

    def _is_late(self, early: EarlyStopping | None) -> bool:
        return early is not None and early.waited(self.history[self._since :]) >= early.patience

    def _keep_best(self, early: EarlyStopping) -> None:
        if early.waited(self.history[self._since :]) == 0:
            self._best = self.state

    def _epoch(
        self, given: Source, rate: Schedule, shuffle: bool, progress: bool | None, epochs: int
    ) -> Record:
        """The rest of an epoch."""
        order = np.random.default_rng([self._seed, self.epoch]) if shuffle else None
        title = f"epoch {self.epoch + 1}/{epochs}"
        lr = finite_rate(rate, self.steps, title)
        with progress_bar(title, given.count, self.batch, progress, "examples") as advance:
            for batch in given.batches(order, self.batch):
                lr = finite_rate(rate, self.steps, self._where())
                count, loss = self._take_step(batch, lr)
                self._sum, self._seen = self._sum + loss * count, self._seen + count
                self.batch, self.steps = self.batch + 1, self.steps + 1
                advance(count, f"loss {self._sum / self._seen:.4g}")
        if not self._seen:
            raise FeedError("the data has no batches")
        return {"loss": self._sum / self._seen, "lr": lr}

    def _take_step(self, batch: Batch, lr: float) -> tuple[int, float]:
        """One step: the number of examples of the batch, and the loss.

        Raises:
            TrainingError: It leads to numbers that are not finite; the state stays.
            FeedError: The batch does not fit the model.
        """
        where = self._where()
        with self._placed(where, batch):
            feeds = checked(self.nets.batch, batch)
            feeds = {name: np.asarray(array) for name, array in feeds.items()}
            noise = self._privacy.draw(self.nets.noises, self.steps) if self._privacy else {}
            found = self.nets.carried.run(feeds | noise | {RATE: np.array(lr, np.float32)})
        results = dict(zip(self.nets.carried.outputs, found, strict=True))
        loss = float(results["loss"])
        where = f"{where} (step {self.steps}, learning rate {lr:g})"
        require_finite(results, where, scaled=self._scaled)
        self.nets.carried.advance()
        return examples_in(self.nets.batch, feeds), loss

    def _where(self) -> str:
        return f"batch {self.batch + 1} of epoch {self.epoch + 1}"

    @contextlib.contextmanager
    def _placed(self, where: str, batch: Batch) -> Iterator[None]:
        """Say of an error of a batch which batch it is, and what its labels are."""
        try:
            yield
        except FeedError as error:
            labels = self.nets.labels_of(batch)
            raise FeedError(f"{where}: {str(error).rstrip('.')}.{labels}") from error

    def evaluate(
        self, data: Any, *, batch_size: int | None = None, drop_last: bool = False
    ) -> Record:
        """The mean loss and metrics over some data, each batch weighted by its number of examples.

        Args:
            data, batch_size, drop_last: As for `fit`.

        Returns:
            "loss" and the metrics, by name.

        Raises:
            FeedError: The data does not fit the model, or a label is out of range.
        """
        size, ports = size_of(self.nets.unlabelled, batch_size), self.nets.labelled
        whole = declared_batch(self.nets.unlabelled) == size
        sums: Record = {}
        seen = 0
        given = source(data, list(ports), size, drop_last, whole)
        for at, batch in enumerate(given.batches(None, 0), start=1):
            with self._placed(f"batch {at}", batch):
                feeds = checked(ports, batch)
                found = self.nets.evaluate(feeds)
            numbers = {name: float(np.mean(found.pop(name))) for name in self._heads}
            numbers |= {name: float(f(found, feeds)) for name, f in self._functions.items()}
            count = examples_in(ports, feeds)
            seen += count
            sums = {name: sums.get(name, 0.0) + n * count for name, n in numbers.items()}
        if not seen:
            raise FeedError("the data has no batches")
        return {name: total / seen for name, total in sums.items()}

    def predict(self, data: Any, *, batch_size: int | None = None) -> Any:
        """The net's outputs for some data.

        Args:
            data, batch_size: As for `fit`, without labels; an array where the net has one input.
                A last batch that is smaller than the model takes is filled with its last example,
                and the outputs are cut.

        Returns:
            The output's array, or a dict by name if the net has several.

        Raises:
            FeedError: The data does not fit the model.
            ArgumentError: An output has no batch axis, and the data is more than one batch.
        """
        ports = self.nets.unlabelled
        size, whole = size_of(ports, batch_size), declared_batch(ports)
        found: list[dict[str, Any]] = []
        for batch in source(data, list(ports), size).batches(None, 0):
            feeds = checked(ports, padded(ports, batch, whole) if whole else batch)
            count, results = examples_in(ports, batch), self.nets.infer(feeds)
            if whole and count < whole:
                results = {
                    name: a[:count] if np.ndim(a) and len(a) == whole else a
                    for name, a in results.items()
                }
            found.append(results)
        if not found:
            raise FeedError("the data has no batches")
        joined = found[0]
        if len(found) > 1:
            if fixed := [name for name, array in joined.items() if np.ndim(array) == 0]:
                raise ArgumentError(
                    f"the output {fixed[0]!r} has no batch axis: give a batch_size of all examples"
                )
            joined = {name: np.concatenate([one[name] for one in found]) for name in joined}
        return next(iter(joined.values())) if len(joined) == 1 else joined

    def checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Write all that goes on from here to the same bits, whole or not at all.

        The file is a model without inputs that gives the state, like the ``init.onnx`` of
        `artifacts`. Its metadata property "onnxgrad.trainer" says, in JSON, where training stood.

        Raises:
            SaveError: The file cannot be written, or the disk is full, or it is the model's own.
        """
        io.require_apart(self._kind, self._files, [path], "a checkpoint")
        stood = {
            "epoch": self.epoch,
            "batch": self.batch,
            "steps": self.steps,
            "sum": self._sum,
            "seen": self._seen,
            "seed": self._seed,
            "since": self._since,
            "training": self._training,
            "history": self.history,
        }
        io.save(Checkpoint(self.state, self._best, stood).model(), path)

    def resume(self, path: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint: the state, the count of epochs, the order of the examples.

        What a runtime draws itself, as for ``dropout="train"``, begins anew.

        Raises:
            ModelError: The file cannot be read.
            ArgumentError: It is no checkpoint, or one of another model, loss, optimizer or option
                of the step; the learning rate may be another.
        """
        found = Checkpoint.read(io.load(path), self._runtime, os.fspath(path))
        require_same(found, self._training, self.nets.shapes, os.fspath(path))
        self.state, self._best, stood = found.state, found.best, found.stood
        self.epoch, self.batch, self.steps = stood["epoch"], stood["batch"], stood["steps"]
        self._sum, self._seen, self._seed = stood["sum"], stood["seen"], stood["seed"]
        self.history, self._since, self._resumed = stood["history"], stood["since"], True

    def export(self) -> Any:
        """The model as it was, with the weights as they are now: see `train.export`.

        With ``batch_norm="train"`` or ``dropout="train"`` it computes as in inference.
        """
        return export(self._kind, self.nets.weights(), inference=self.nets.inference)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as it was, with the weights as they are now: see `export`.

        The weights of a model that has them in files of their own are written beside it again, to a
        file of a new name: see `onnxgrad.save`.

        Raises:
            SaveError: The file cannot be written, or the disk is full, or it holds the weights of
                the model that is trained.
        """
        io.require_apart(None, self._files, [path], "a model")
        trained = export(self._model, self.nets.weights(), inference=self.nets.inference)
        io.save(trained, path, external_data=bool(self._files))
