"""Nets on a Ray cluster: `map` for the rows of a table, `fit` for a training shared by workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxgrad.graph.errors import (
    ArgumentError,
    OnnxGradError,
    RuntimeMissingError,
    TrainingError,
)
from onnxgrad.parallel.columns import Columns
from onnxgrad.parallel.replica import Plan, Replica, shares
from onnxgrad.run.requests import Request
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.train.data import declared_batch, examples_in
from onnxgrad.train.loaded import RATE, Loaded
from onnxgrad.train.trainer import Record, Trainer
from onnxgrad.transforms.options import Of

try:
    import ray
    import ray.data
    from ray.exceptions import RayActorError, RayError
except ImportError as error:
    raise RuntimeMissingError(
        f"onnxgrad.parallel.ray needs Ray: pip install 'onnxgrad[cpu,ray]'. ({error})"
    ) from error

__all__ = ["fit", "map"]

# So many examples tell whether the loss is a mean.
_LOOKED_AT = 64


def map(
    model: Any,
    dataset: Any,
    request: Request | None = None,
    *,
    of: Of = None,
    columns: Mapping[Any, str] | None = None,
    workers: int | tuple[int, int] = 1,
    batch_size: int | None = None,
    cpus: int = 1,
    gpus: float = 0,
    **options: Any,
) -> Any:
    """What a net gives for each row of a dataset, such as gradients or attributions.

        images = ray.data.read_parquet("images/")
        parallel.ray.map("net.onnx", images, NetPortGradient("image"), workers=8)
        parallel.ray.map(explain.saliency("net.onnx", target="argmax"), images, workers=8)

    Each worker is an actor with a session of its own. The work of one that dies is done again by
    another, which takes its place.

    Args:
        model: A path that all machines have, an `onnx.ModelProto`, its bytes or an
            `onnx_ir.Model`; it travels as a pickled `Net` does. A model that a transform or an
            explanation has made needs no request.
        dataset: A `ray.data.Dataset` with a column for each input, or the path of Parquet files.
        request, of: As for a call of `onnxgrad.Net`. Gradients are those of inputs and inner
            tensors; the weights' are no column, see `per_example_gradient`.
        columns: By the name of an input, that of its column, where they differ; and by a
            `NetPortGradient` that of the gradient which is imposed there.
        workers: The number of actors; or the least and the most.
        batch_size: The number of rows of a run; None for that which the model declares, else 32.
        cpus, gpus: What Ray sets aside for a worker. onnxruntime takes as many threads as `cpus`.
        options: Those of `onnxgrad.Net`, by name.

    Returns:
        A `ray.data.Dataset` with the rows' columns and those of the results, which are outputs and
        values under their names, of dtype and shape of a row, and "<x>_grad" for gradients. Nothing
        runs before the dataset is used, as by ``write_parquet``.

    Raises:
        RuntimeMissingError: Ray is not installed.
        ModelError: The model cannot be read.
        FeedError: A column lacks, has another dtype or shape, a result is not one a row, or the
            rows of a batch influence each other; some of that shows when the dataset is used.
        ArgumentError: A gradient is not one a row, the arguments make no sense together, or a
            result has the name of a column.

    Example:
        >>> rows = ray.data.from_numpy(images)                       # doctest: +SKIP
        >>> found = parallel.ray.map("net.onnx", rows, NetPortGradient("x"), columns={"x": "data"})
    """
    options = {"threads": cpus or None} | options
    made = Columns.of_net(model, request, of, columns or {}, options)
    if isinstance(dataset, str | os.PathLike):
        dataset = ray.data.read_parquet(os.fspath(dataset))
    if made.batch is not None and batch_size not in (None, made.batch):
        raise ArgumentError(f"batch_size: the model takes batches of {made.batch}")
    least, most = workers if isinstance(workers, tuple) else (workers, workers)
    return dataset.map_batches(
        Columns,
        fn_constructor_args=(made.net, made.asked, made.of, made.read, made.checked),
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        batch_size=made.batch or batch_size or 32,
        batch_format="numpy",
        num_cpus=cpus,
        num_gpus=gpus,
        udf_modifying_row_count=False,
    )


def fit(
    trainer: Trainer,
    data: Any,
    epochs: int = 1,
    *,
    workers: int = 2,
    cpus: int = 1,
    gpus: float = 0,
    providers: Sequence[Provider] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Record]:
    """Train, each step shared by workers: `Trainer.fit` with the gradients of a cluster.

        trainer = train.Trainer("net.onnx", losses.cross_entropy("logits"), train.AdamW())
        parallel.ray.fit(trainer, (images, labels), 5, workers=4, checkpoint="state.onnx")
        trainer.save("trained.onnx")

    Each batch is cut into as many parts as there are workers. A worker computes the gradients of
    its part; they are averaged, weighted by the parts' numbers of examples; and each worker makes
    the same update of its own copy of the state. So all numbers are those that the trainer alone
    would have found, to rounding. For the average each worker sums one piece of the gradients over
    all workers and gives it to all, which is a reduce-scatter and an all-gather: with n workers, it
    sends and receives 2 (n - 1) / n times the bytes of the gradients in a step.

    A worker that is lost is replaced: the new one takes the state of another worker. Where all are
    lost, training goes on from the last checkpoint.

    Args:
        trainer: Its state is where training begins and, afterwards, where it ended. It evaluates
            the net itself.
        data, epochs: As for `Trainer.fit`; or a `ray.data.Dataset` with a column for each input,
            which is gone through once an epoch, in its order.
        workers: How many.
        cpus, gpus: What Ray sets aside for a worker. onnxruntime takes as many threads as `cpus`.
        providers: onnxruntime's execution providers of a worker.
        checkpoint, options: As for `Trainer.fit`. All of `batch_size`, the examples of a step, are
            shared by the workers.

    Returns:
        The records of all epochs, as `Trainer.fit`.

    Raises:
        OnnxGradError: As for `Trainer.fit`.
        ArgumentError: The step needs the whole batch in one place, as with `privacy`, a
            `loss_scale` or ``batch_norm="train"``, or the model takes batches of one size only.
        TrainingError: The loss of a batch is not the mean of the losses of its parts, as a sum is
            not; or all workers are lost, and there is no checkpoint.
    """
    nets = trainer.nets
    if (size := declared_batch(nets.batch)) is not None:
        raise ArgumentError(
            f"the model takes batches of {size} alone, which cannot be cut into parts: give it a "
            "batch axis of any size"
        )
    plan = Plan.of(nets.halves(), threads=cpus, providers=providers)
    if hasattr(data, "iter_batches"):
        data = _Batches(data, options.get("batch_size") or 32)
    placed = {"num_cpus": cpus, "num_gpus": gpus}
    while True:
        with _shared(trainer, plan, workers, placed) as team:
            try:
                return trainer.fit(data, epochs, checkpoint=checkpoint, **options)
            except RayError as error:
                if team.survivors():
                    raise
                if checkpoint is None or not os.path.exists(checkpoint):
                    raise TrainingError(
                        "all workers are lost, and there is no checkpoint to go on from: give "
                        f"checkpoint=PATH. ({error})"
                    ) from error
        trainer.resume(checkpoint)


@contextlib.contextmanager
def _shared(
    trainer: Trainer, plan: Plan, workers: int, placed: Mapping[str, float]
) -> Iterator[_Team]:
    """While it is open, the trainer's steps are made by workers."""
    nets, alone = trainer.nets, trainer.nets.carried
    team = _Team(nets, plan, workers, placed)
    nets.carried = team
    try:
        yield team
    finally:
        if nets.carried is team:
            nets.carried = alone
            if team.survivors():
                nets.go_on_from(team.arrays())
        team.stop()


class _Batches:
    """The batches of a dataset, gone through once an epoch."""

    def __init__(self, dataset: Any, size: int) -> None:
        self._dataset, self._size = dataset, size

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return iter(self._dataset.iter_batches(batch_size=self._size, batch_format="numpy"))


class _Team:
    """Workers that make steps together: in a `Trainer`, what carries its state.

    Attributes:
        outputs: As of a `Carrying`.
    """

    def __init__(self, nets: Loaded, plan: Plan, workers: int, placed: Mapping[str, float]) -> None:
        self._nets, self._plan = nets, ray.put(plan)
        self._kind = ray.remote(**placed)(Replica)
        state = ray.put(nets.carried.arrays())
        self._members = [self._kind.remote(self._plan, state, k) for k in range(workers)]
        self._known: dict[str, Array] | None = None
        self._checked = False
        self.outputs: Sequence[str] = nets.carried.outputs

    @property
    def state(self) -> Mapping[str, Array]:
        """The state by name, as `Loaded` evaluates it."""
        if self._known is None:
            self._known = self._from_one()
        return self._known

    def arrays(self) -> dict[str, Array]:
        """As of a `Carrying`."""
        return {name: np.array(array) for name, array in self.state.items()}

    def run(self, feeds: Mapping[str, Array]) -> list[Any]:
        """As of a `Carrying`; workers that are lost meanwhile are replaced, and the step repeated.

        Raises:
            TrainingError: The loss is no mean over the examples.
        """
        batch = {name: array for name, array in feeds.items() if name != RATE}
        count = examples_in(self._nets.batch, batch)
        split = [
            name
            for name, a in batch.items()
            if a.ndim and len(a) == count and not _fixed(self._nets.batch[name])
        ]
        if not self._checked:
            self._require_mean(batch, split)
        while True:
            try:
                return self._step(shares(batch, split, len(self._members)), feeds[RATE])
            except RayError as error:
                cause = getattr(error, "cause", None)
                if isinstance(cause, OnnxGradError):
                    raise cause from None
                if not self._mend():
                    raise

    def _step(self, parts: Sequence[tuple[Any, float]], rate: Array) -> list[Any]:
        """One step: gradients, the sum of each piece by one worker, and the update by all."""
        number = len(self._members)
        found = [
            member.gradients.options(num_returns=1 + number).remote(part, share, number)
            for member, (part, share) in zip(self._members, parts, strict=False)
        ]
        sums = [
            member.sum.remote(*(pieces[1 + k] for pieces in found))
            for k, member in enumerate(self._members)
        ]
        updates = ray.get([member.update.remote(rate, *sums) for member in self._members])
        results = updates[0] | {"loss": sum(ray.get([pieces[0] for pieces in found]))}
        return [results[name] for name in self.outputs]

    def advance(self) -> None:
        """As of a `Carrying`. A worker that is lost meanwhile is replaced before the next step."""
        self._known = None
        for done in [member.advance.remote() for member in self._members]:
            with contextlib.suppress(RayActorError):
                ray.get(done)

    def survivors(self) -> list[Any]:
        """The workers that answer."""
        return [one for one in self._members if _answers(one)]

    def stop(self) -> None:
        """End the workers."""
        for member in self._members:
            ray.kill(member)

    def _from_one(self) -> dict[str, Array]:
        """The state, of the first worker that has it."""
        while True:
            try:
                return ray.get(self._members[0].arrays.remote())
            except RayActorError:
                if not self._mend():
                    raise

    def _mend(self) -> bool:
        """Replace lost workers by new ones, with the state of one that is left.

        Returns:
            Whether there was one to replace, and one left.
        """
        left = [_answers(member) for member in self._members]
        if all(left) or not any(left):
            return False
        state = self._members[left.index(True)].arrays.remote()
        for rank, lives in enumerate(left):
            if not lives:
                self._members[rank] = self._kind.remote(self._plan, state, rank)
        return True

    def _require_mean(self, batch: Mapping[str, Array], split: Sequence[str]) -> None:
        """Check that the loss of some examples is the mean of those of their parts.

        Raises:
            TrainingError: It is not.
        """
        some = {name: a[:_LOOKED_AT] if name in split else a for name, a in batch.items()}
        whole = self._loss(some)
        parts = [(self._loss(part), share) for part, share in shares(some, split, 3)]
        mean = sum(loss * share for loss, share in parts)
        if abs(whole - mean) > 1e-3 * max(abs(loss) for loss, _ in parts):
            raise TrainingError(
                f"The loss of a batch, {whole:g}, is not the mean of the losses of its parts, "
                f"{mean:g}, so the gradients of workers cannot be averaged. Give the loss "
                "reduction='mean', without class weights or labels that are ignored."
            )
        self._checked = True

    def _loss(self, batch: Mapping[str, Array]) -> float:
        feeds = {name: a for name, a in batch.items() if name in self._nets.labelled}
        return float(np.asarray(self._nets.evaluate(feeds)["loss"]))


def _fixed(port: Port) -> bool:
    """Whether the first axis of an input has a size that is declared: it is not the batch."""
    return bool(port.shape) and isinstance((port.shape or ())[0], int)


def _answers(member: Any) -> bool:
    try:
        ray.get(member.ready.remote())
    except RayActorError:
        return False
    return True
