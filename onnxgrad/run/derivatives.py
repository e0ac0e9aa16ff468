"""The transforms as methods that take arrays: those of `Net` besides its call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, overload

import onnx_ir as ir
from numpy.typing import ArrayLike
from typing_extensions import TypedDict, Unpack

from onnxgrad.graph import names
from onnxgrad.graph.names import All
from onnxgrad.run.feeds import Feeder
from onnxgrad.run.requests import pick
from onnxgrad.run.sessions import ANY_SIZE, Sessions, TransformSession
from onnxgrad.runtimes.ports import Array
from onnxgrad.transforms.batch import per_example_gradient
from onnxgrad.transforms.blocks import MAX_BYTES, Mode
from onnxgrad.transforms.forward import hvp, jvp
from onnxgrad.transforms.gradient import gradient
from onnxgrad.transforms.jacobian import hessian, jacobian
from onnxgrad.transforms.metadata import GRADIENTS, HVPS, JACOBIANS, TANGENTS
from onnxgrad.transforms.options import TensorSpecs, Wrt

# Several tensors: the results are a dict. A name alone, a sequence too, is of an earlier overload.
Several: TypeAlias = Sequence[Any]


class _Sized(TypedDict, total=False):
    batched: bool | TensorSpecs
    max_bytes: int


class _Moded(_Sized, total=False):
    mode: Mode


class Derivatives:
    """The transforms of a net, each as a method that takes the feeds of a call.

    What they give is an array where `wrt` (and `of`, where results belong to an output) is one
    name, or is left out and there is one to choose; else a dict by tensor name. For a sequence,
    even of one name, it is a dict.
    """

    def __init__(self, model: ir.Model, sessions: Sessions) -> None:
        self._model, self._sessions, self._feeder = model, sessions, Feeder(model)
        self.inputs = self._feeder.required
        self.outputs = tuple(value.name or "" for value in model.graph.outputs)

    @overload
    def vjp(
        self, feeds: Any, ograds: Any, wrt: None = None, *, of: TensorSpecs | None = None
    ) -> Any: ...

    @overload
    def vjp(self, feeds: Any, ograds: Any, wrt: str, *, of: TensorSpecs | None = None) -> Array: ...

    @overload
    def vjp(
        self, feeds: Any, ograds: Any, wrt: Several | All, *, of: TensorSpecs | None = None
    ) -> dict[str, Array]: ...

    def vjp(
        self,
        feeds: Any,
        ograds: Any,
        wrt: Wrt = None,
        *,
        of: TensorSpecs | None = None,
    ) -> Any:
        """The product of vectors with the Jacobian: the same as a gradient with imposed ograds.

        Args:
            feeds: As for a call.
            ograds: A dict by tensor name of what is imposed; the array itself for the one tensor
                of `of`.
            wrt, of: As for `onnxgrad.gradient`.
        """
        values = self._feeder.values(feeds)
        only = self.outputs if of is None else names.resolve_all(self._model, of)
        imposed = self._feeder.by_name(ograds, only, "ograds")
        built = self._sessions.of(gradient, GRADIENTS, wrt, values, of=of, ograd=sorted(imposed))
        found = self._run(built, values, imposed)
        return pick(found, wrt)

    @overload
    def jvp(self, feeds: Any, tangents: Any, *, of: None = None) -> Any: ...

    @overload
    def jvp(self, feeds: Any, tangents: Any, *, of: str) -> Array: ...

    @overload
    def jvp(self, feeds: Any, tangents: Any, *, of: Several) -> dict[str, Array]: ...

    def jvp(self, feeds: Any, tangents: Any, *, of: TensorSpecs | None = None) -> Any:
        """The product of the Jacobian with tangents of inputs, parameters or other tensors.

        Args:
            feeds: As for a call.
            tangents: A dict by tensor name; the array itself for the one input.
            of: As for `onnxgrad.jvp`.
        """
        values = self._feeder.values(feeds)
        moved = self._feeder.by_name(tangents, self.inputs, "tangents")
        built = self._sessions.of(jvp, TANGENTS, list(moved), values, of=of)
        return pick(self._run(built, values, tangents=moved), of)

    @overload
    def hvp(
        self, feeds: Any, tangents: Mapping[Any, Any], *, of: TensorSpecs | None = None
    ) -> dict[str, Array]: ...

    @overload
    def hvp(self, feeds: Any, tangents: ArrayLike, *, of: TensorSpecs | None = None) -> Array: ...

    def hvp(self, feeds: Any, tangents: Any, *, of: TensorSpecs | None = None) -> Any:
        """The product of the Hessian with tangents, of the scalar that a gradient is of.

        Args:
            feeds: As for a call, imposed gradients included.
            tangents: A dict by tensor name; the array itself for the one input.
            of: As for `onnxgrad.hvp`.

        Returns:
            For an array an array, for a dict a dict.
        """
        values, ograds = self._feeder.split(feeds)
        moved = self._feeder.by_name(tangents, self.inputs, "tangents")
        imposed = sorted(ograds) or False
        built = self._sessions.of(hvp, HVPS, list(moved), values, of=of, ograd=imposed)
        found = self._run(built, values, ograds, moved)
        return found if isinstance(tangents, Mapping) else next(iter(found.values()))

    @overload
    def jacobian(self, feeds: Any, wrt: str, *, of: str, **options: Unpack[_Moded]) -> Array: ...

    @overload
    def jacobian(
        self, feeds: Any, wrt: Several | All, *, of: str, **options: Unpack[_Moded]
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
        of: TensorSpecs | None = None,
        **options: Unpack[_Moded],
    ) -> Any: ...

    def jacobian(
        self,
        feeds: Any,
        wrt: Wrt = None,
        *,
        of: TensorSpecs | None = None,
        mode: Mode = "auto",
        batched: bool | TensorSpecs = False,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """dy/dx, of shape [*y.shape, *x.shape]; if there are several of both, by y, then by x.

        Args:
            feeds: As for a call. Their sizes decide on the mode, and what is too large.
            wrt, of, mode, batched, max_bytes: As for `onnxgrad.jacobian`.
        """
        values = self._feeder.values(feeds)
        options: dict[str, Any] = {"of": of, "batched": batched}
        way = self._sessions.plan(
            "jacobian", values, wrt, mode=mode, max_bytes=max_bytes, **options
        )
        options |= {"mode": way, "max_bytes": ANY_SIZE}
        built = self._sessions.of(jacobian, JACOBIANS, wrt, values, **options)
        found = self._run(built, values)
        return pick({y: pick(row, wrt) for y, row in found.items()}, of)

    @overload
    def hessian(
        self,
        feeds: Any,
        wrt: None = None,
        *,
        of: TensorSpecs | None = None,
        **options: Unpack[_Sized],
    ) -> Any: ...

    @overload
    def hessian(
        self, feeds: Any, wrt: str, *, of: TensorSpecs | None = None, **options: Unpack[_Sized]
    ) -> Array: ...

    @overload
    def hessian(
        self,
        feeds: Any,
        wrt: Several | All,
        *,
        of: TensorSpecs | None = None,
        **options: Unpack[_Sized],
    ) -> dict[str, dict[str, Array]]: ...

    def hessian(
        self,
        feeds: Any,
        wrt: Wrt = None,
        *,
        of: TensorSpecs | None = None,
        batched: bool | TensorSpecs = False,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """The Hessian, of shape [*a.shape, *b.shape] for two tensors of `wrt`, by a, then by b.

        Args:
            feeds: As for a call, imposed gradients included. Their sizes decide what is too large.
            wrt, of, batched, max_bytes: As for `onnxgrad.hessian`.
        """
        values, ograds = self._feeder.split(feeds)
        options = {"of": of, "batched": batched}
        self._sessions.plan("hessian", values, wrt, max_bytes=max_bytes, **options)
        built = self._sessions.of(
            hessian,
            JACOBIANS,
            wrt,
            values,
            ograd=sorted(ograds) or False,
            max_bytes=ANY_SIZE,
            **options,
        )
        found = self._run(built, values, ograds)
        return pick({a: pick(row, wrt) for a, row in found.items()}, wrt)

    @overload
    def per_example_gradient(
        self,
        feeds: Any,
        wrt: str,
        *,
        of: TensorSpecs | None = None,
        batched: TensorSpecs | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Array: ...

    @overload
    def per_example_gradient(
        self,
        feeds: Any,
        wrt: Several | All | None = None,
        *,
        of: TensorSpecs | None = None,
        batched: TensorSpecs | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> dict[str, Array]: ...

    def per_example_gradient(
        self,
        feeds: Any,
        wrt: Wrt = None,
        *,
        of: TensorSpecs | None = None,
        batched: TensorSpecs | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> Any:
        """The gradients of parameters, of shape [N, *w.shape], for each example of the batch.

        Args:
            feeds: As for a call. Their sizes decide what is too large.
            wrt, of, batched, max_bytes: As for `onnxgrad.per_example_gradient`.
        """
        values = self._feeder.values(feeds)
        options = {"of": of, "batched": batched}
        self._sessions.plan("per_example_gradient", values, wrt, max_bytes=max_bytes, **options)
        transform = per_example_gradient
        built = self._sessions.of(transform, GRADIENTS, wrt, values, max_bytes=ANY_SIZE, **options)
        found = self._run(built, values)
        return found if wrt is None else pick(found, wrt)

    def _run(
        self,
        built: TransformSession,
        values: dict[str, Any],
        ograds: Mapping[str, Any] | None = None,
        tangents: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        fed = self._feeder.complete(built, values, ograds or {}, tangents or {})
        return built.named(built.session.run(fed))
