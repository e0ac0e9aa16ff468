"""The transforms as methods that take arrays: those of `Net` besides its call."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, overload

import onnx_ir as ir
from numpy.typing import ArrayLike
from typing_extensions import TypedDict, Unpack

from onnxgrad.graph.guard import guarded_methods
from onnxgrad.graph.names import All, resolve_all
from onnxgrad.heads.head import Head, parted
from onnxgrad.run.feeds import Feeder, Feeds
from onnxgrad.run.requests import pick
from onnxgrad.run.sessions import ANY_SIZE, Sessions, TransformSession
from onnxgrad.runtimes.ports import Array
from onnxgrad.transforms.asked import of_names
from onnxgrad.transforms.batch import per_example_gradient
from onnxgrad.transforms.blocks import MAX_BYTES, Mode
from onnxgrad.transforms.forward import hvp, jvp
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.jacobian import hessian, jacobian
from onnxgrad.transforms.metadata import GRADIENTS, HVPS, JACOBIANS, TANGENTS
from onnxgrad.transforms.options import Of, TensorSpecs, Wrt

# Several tensors: the results are a dict. A name alone, a sequence too, is of an earlier overload.
Several: TypeAlias = Sequence[Any]
# One tensor to differentiate, or a head.
OneOf: TypeAlias = str | Head


class _Sized(TypedDict, total=False):
    batched: bool | TensorSpecs
    max_bytes: int


class _Moded(_Sized, total=False):
    mode: Mode


@guarded_methods
class Derivatives:
    """The transforms of a net, each as a method that takes the feeds of a call.

    What they give is an array where `wrt` (and `of`, where results belong to an output) is one
    name, or is left out and there is one to choose; else a dict by tensor name. For a sequence,
    even of one name, it is a dict. A head or a loss is one tensor of its name, and the inputs that
    it adds are among the feeds.
    """

    def __init__(self, model: ir.Model, sessions: Sessions) -> None:
        self._model, self._sessions, self._feeder = model, sessions, Feeder(model)
        self.inputs = self._feeder.required
        self.outputs = tuple(value.name or "" for value in model.graph.outputs)

    @functools.cached_property
    def _scored(self) -> tuple[str, ...]:
        """The outputs that are differentiated where `of` is left out."""
        return tuple(of_names(self._model))

    @overload
    def gradient(self, feeds: Any, wrt: None = None, *, of: Of = None) -> Any: ...

    @overload
    def gradient(self, feeds: Any, wrt: str, *, of: Of = None) -> Array: ...

    @overload
    def gradient(self, feeds: Any, wrt: Several | All, *, of: Of = None) -> dict[str, Array]: ...

    def gradient(self, feeds: Any, wrt: Wrt = None, *, of: Of = None) -> Any:
        """The gradient of the scalar sum of `of`, at each tensor of `wrt` of its dtype and shape.

        Args:
            feeds: As for a call, imposed gradients included.
            wrt, of: As for `onnxgrad.gradient`.
        """
        fed = self._feeder.split(feeds, of)
        built = self._sessions.of(gradient, GRADIENTS, wrt, fed.values, of=of, ograd=fed.imposed)
        return self._pick(self._run(built, fed), wrt)

    @overload
    def value_and_gradient(self, feeds: Any, wrt: str, *, of: OneOf) -> tuple[Array, Array]: ...

    @overload
    def value_and_gradient(
        self, feeds: Any, wrt: Several | All, *, of: OneOf
    ) -> tuple[Array, dict[str, Array]]: ...

    @overload
    def value_and_gradient(self, feeds: Any, wrt: Wrt = None, *, of: Of = None) -> Any: ...

    def value_and_gradient(self, feeds: Any, wrt: Wrt = None, *, of: Of = None) -> Any:
        """The tensors of `of` as the net gives them, and their gradient, in one run.

            loss, gradients = net.value_and_gradient(feeds, ALL, of=losses.mse("logits"))

        Args:
            feeds, wrt, of: As for `gradient`.

        Returns:
            A pair. First the tensor of `of`, not its sum, as an array or, of several, a dict by
            tensor name; then what `gradient` gives.
        """
        fed = self._feeder.split(feeds, of)
        values = self._scored if of is None else of
        built = self._sessions.of(
            gradient, GRADIENTS, wrt, fed.values, of=of, ograd=fed.imposed, values=values
        )
        found = built.session.run(self._feeder.complete(built, fed))
        given = self._scored if of is None and len(self._scored) > 1 else of
        return self._pick(built.values(found), given), self._pick(built.named(found), wrt)

    @overload
    def vjp(self, feeds: Any, ograds: Any, wrt: None = None, *, of: Of = None) -> Any: ...

    @overload
    def vjp(self, feeds: Any, ograds: Any, wrt: str, *, of: Of = None) -> Array: ...

    @overload
    def vjp(
        self, feeds: Any, ograds: Any, wrt: Several | All, *, of: Of = None
    ) -> dict[str, Array]: ...

    def vjp(
        self,
        feeds: Any,
        ograds: Any,
        wrt: Wrt = None,
        *,
        of: Of = None,
    ) -> Any:
        """The product of vectors with the Jacobian: the same as a gradient with imposed ograds.

        Args:
            feeds: As for a call.
            ograds: A dict by tensor name, or by head, of what is imposed; the array itself for the
                one tensor of `of`.
            wrt, of: As for `onnxgrad.gradient`.
        """
        fed = self._feeder.plain(feeds, of)
        specs, heads = parted(of)
        only = self.outputs if of is None else resolve_all(self._model, specs) if specs else []
        given = self._feeder.by_name(ograds, [*only, *heads], "ograds")
        imposed = dict(sorted(given.items(), key=lambda item: str(item[0])))
        built = self._sessions.of(gradient, GRADIENTS, wrt, fed.values, of=of, ograd=list(imposed))
        return self._pick(self._run(built, fed, imposed), wrt)

    @overload
    def jvp(self, feeds: Any, tangents: Any, *, of: None = None) -> Any: ...

    @overload
    def jvp(self, feeds: Any, tangents: Any, *, of: OneOf) -> Array: ...

    @overload
    def jvp(self, feeds: Any, tangents: Any, *, of: Several) -> dict[str, Array]: ...

    def jvp(self, feeds: Any, tangents: Any, *, of: Of = None) -> Any:
        """The product of the Jacobian with tangents of inputs, parameters or other tensors.

        Args:
            feeds: As for a call.
            tangents: A dict by tensor name; the array itself for the one input.
            of: As for `onnxgrad.jvp`.
        """
        fed = self._feeder.plain(feeds, of)
        moved = self._feeder.by_name(tangents, self.inputs, "tangents")
        built = self._sessions.of(jvp, TANGENTS, list(moved), fed.values, of=of)
        return self._pick(self._run(built, fed, tangents=moved), of)

    @overload
    def hvp(
        self, feeds: Any, tangents: Mapping[Any, Any], *, of: Of = None
    ) -> dict[str, Array]: ...

    @overload
    def hvp(self, feeds: Any, tangents: ArrayLike, *, of: Of = None) -> Array: ...

    def hvp(self, feeds: Any, tangents: Any, *, of: Of = None) -> Any:
        """The product of the Hessian with tangents, of the scalar that a gradient is of.

        Args:
            feeds: As for a call, imposed gradients included.
            tangents: A dict by tensor name; the array itself for the one input.
            of: As for `onnxgrad.hvp`.

        Returns:
            For an array an array, for a dict a dict.
        """
        fed = self._feeder.split(feeds, of)
        moved = self._feeder.by_name(tangents, self.inputs, "tangents")
        built = self._sessions.of(hvp, HVPS, list(moved), fed.values, of=of, ograd=fed.imposed)
        found = self._run(built, fed, tangents=moved)
        several = {name: found[name] for name in moved}
        return several if isinstance(tangents, Mapping) else next(iter(several.values()))

    @overload
    def jacobian(self, feeds: Any, wrt: str, *, of: OneOf, **options: Unpack[_Moded]) -> Array: ...

    @overload
    def jacobian(
        self, feeds: Any, wrt: Several | All, *, of: OneOf, **options: Unpack[_Moded]
    ) -> dict[str, Array]: ...

    @overload
    def jacobian(
        self, feeds: Any, wrt: str, *, of: Several, **options: Unpack[_Moded]
    ) -> dict[str, Array]: ...

    @overload
    def jacobian(
        self, feeds: Any, wrt: Several | All, *, of: Several, **options: Unpack[_Moded]
    ) -> dict[str, dict[str, Array]]: ...

    @overload
    def jacobian(
        self,
        feeds: Any,
        wrt: Wrt = None,
        *,
        of: Of = None,
        **options: Unpack[_Moded],
    ) -> Any: ...

    def jacobian(
        self,
        feeds: Any,
        wrt: Wrt = None,
        *,
        of: Of = None,
        mode: Mode = "auto",
        batched: bool | TensorSpecs = False,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """dy/dx, of shape [*y.shape, *x.shape]; if there are several of both, by y, then by x.

        Args:
            feeds: As for a call. Their sizes decide on the mode, and what is too large.
            wrt, of, mode, batched, max_bytes: As for `onnxgrad.jacobian`.
        """
        fed = self._feeder.plain(feeds, of)
        options: dict[str, Any] = {"of": of, "batched": batched}
        way = self._sessions.plan(
            "jacobian", fed.values, wrt, mode=mode, max_bytes=max_bytes, **options
        )
        options |= {"mode": way, "max_bytes": ANY_SIZE}
        built = self._sessions.of(jacobian, JACOBIANS, wrt, fed.values, **options)
        found = self._run(built, fed)
        return self._pick({y: self._pick(row, wrt) for y, row in found.items()}, of)

    @overload
    def hessian(
        self,
        feeds: Any,
        wrt: None = None,
        *,
        of: Of = None,
        **options: Unpack[_Sized],
    ) -> Any: ...

    @overload
    def hessian(
        self, feeds: Any, wrt: str, *, of: Of = None, **options: Unpack[_Sized]
    ) -> Array: ...

    @overload
    def hessian(
        self,
        feeds: Any,
        wrt: Several | All,
        *,
        of: Of = None,
        **options: Unpack[_Sized],
    ) -> dict[str, dict[str, Array]]: ...

    def hessian(
        self,
        feeds: Any,
        wrt: Wrt = None,
        *,
        of: Of = None,
        batched: bool | TensorSpecs = False,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """The Hessian, of shape [*a.shape, *b.shape] for two tensors of `wrt`, by a, then by b.

        Args:
            feeds: As for a call, imposed gradients included. Their sizes decide what is too large.
            wrt, of, batched, max_bytes: As for `onnxgrad.hessian`.
        """
        fed = self._feeder.split(feeds, of)
        options = {"of": of, "batched": batched}
        self._sessions.plan("hessian", fed.values, wrt, max_bytes=max_bytes, **options)
        built = self._sessions.of(
            hessian,
            JACOBIANS,
            wrt,
            fed.values,
            ograd=fed.imposed,
            max_bytes=ANY_SIZE,
            **options,
        )
        found = self._run(built, fed)
        return self._pick({a: self._pick(row, wrt) for a, row in found.items()}, wrt)

    @overload
    def per_example_gradient(
        self,
        feeds: Any,
        wrt: str,
        *,
        of: Of = None,
        batched: TensorSpecs | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Array: ...

    @overload
    def per_example_gradient(
        self,
        feeds: Any,
        wrt: Several | All | None = None,
        *,
        of: Of = None,
        batched: TensorSpecs | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> dict[str, Array]: ...

    def per_example_gradient(
        self,
        feeds: Any,
        wrt: Wrt = None,
        *,
        of: Of = None,
        batched: TensorSpecs | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """The gradients of parameters, of shape [N, *w.shape], for each example of the batch.

        Args:
            feeds: As for a call. Their sizes decide what is too large.
            wrt, of, batched, max_bytes: As for `onnxgrad.per_example_gradient`.
        """
        fed = self._feeder.plain(feeds, of)
        options: dict[str, Any] = {"of": of, "batched": batched}
        self._sessions.plan("per_example_gradient", fed.values, wrt, max_bytes=max_bytes, **options)
        options |= {"max_bytes": ANY_SIZE}
        built = self._sessions.of(per_example_gradient, GRADIENTS, wrt, fed.values, **options)
        found = self._run(built, fed)
        return found if wrt is None else self._pick(found, wrt)

    def _pick(self, found: dict[str, Any], spec: Any) -> Any:
        return pick(found, spec, self._sessions.order(spec))

    def _run(
        self,
        built: TransformSession,
        fed: Feeds,
        ograds: Mapping[Any, Any] | None = None,
        tangents: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return built.named(built.session.run(self._feeder.complete(built, fed, ograds, tangents)))
