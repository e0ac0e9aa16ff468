"""A net as a function of JAX, which `jit`, `grad`, `vmap` and all that is made of them transform.

One primitive calls functions of arrays. Its rules give calls of derivatives: the jvp of a call is a
call of the jvp's file, its transpose one of the vjp's file. So any order and any mode follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.bridges.batches import with_free_batch
from onnxgrad.bridges.frameworks import needs
from onnxgrad.bridges.function import Function
from onnxgrad.engine.straight_through import StraightThrough
from onnxgrad.graph import io
from onnxgrad.graph.errors import FeedError, nearest
from onnxgrad.graph.names import ALL
from onnxgrad.run.packed import Content
from onnxgrad.run.values import give
from onnxgrad.runtimes.onnxruntime import Provider
from onnxgrad.runtimes.ports import Array, Port
from onnxgrad.transforms.options import Of, TensorSpecs, Wrt

with needs("jax"):
    import jax
    import jax.numpy as jnp
    from jax.extend.core import Primitive
    from jax.interpreters import ad, batching, mlir

__all__ = ["JaxFunction", "function"]


def function(
    model: io.ModelLike,
    *,
    of: Of = None,
    trainable: Wrt = ALL,
    providers: Sequence[Provider] | None = None,
    threads: int | None = None,
    straight_through: StraightThrough = False,
    constant: TensorSpecs | None = None,
    example: Any = None,
) -> JaxFunction:
    """A net as a function of JAX.

    It works under `jit`, `grad`, `jvp`, `vjp`, `jacfwd`, `jacrev`, `hessian`, `vmap` and what is
    made of them, in any order of differentiation. The net runs on onnxruntime, in a callback where
    a function around it is compiled. A batch of `vmap` is one call: a part of the batch that the
    net has where its examples are proven not to influence each other, else a Scan in the net.

    Args:
        model: A path, an `onnx.ModelProto`, its bytes or an `onnx_ir.Model`.
        of: Names of tensors, or heads and losses, to give; None for the outputs. The inputs of
            heads come behind those of the net.
        trainable: The weights in `params`: `ALL` for those that are trainable.
        providers, threads: As for `Net`.
        straight_through, constant, example: As for `gradient`.

    Returns:
        The function. It takes the inputs in their order, or one dict by name, of the dtypes of the
        net. It gives the output, or a dict by name if there are several.

    Raises:
        ModelError: The model cannot be read.
        RuntimeMissingError: JAX or onnxruntime is not installed.
        UnknownNameError: A name in `of`, `trainable` or `constant` is not there.

    Example:
        >>> f = bridges.jax.function("models/mlp.onnx")
        >>> jax.hessian(lambda x: f(x).sum())(jnp.ones((1, 4))).shape
        (1, 4, 1, 4)
    """
    net = io.load(model)
    if of is not None:
        net = give(net, of)
    options = {
        "providers": providers,
        "threads": threads,
        "straight_through": straight_through,
        "constant": constant,
        "example": example,
    }
    return JaxFunction(net, trainable, options)


class JaxFunction:
    """A net as a function of JAX, made by `function`.

        f(x)                      with the weights of the file
        f(x, params=params)       with others: a dict by name, such as a part of f.params
        jax.grad(lambda params: loss(f(x, params=params)))(f.params)

    Attributes:
        inputs, outputs: The names of the inputs and the outputs, in order.
    """

    def __init__(self, net: ir.Model, trainable: Wrt, options: Mapping[str, Any]) -> None:
        self._net, self._trainable, self._options = net, trainable, options
        self._fixed = self._build(None)[0]
        self._released: tuple[Function, dict[str, Array]] | None = None
        required = {port.name for port in self._fixed.inputs}
        self._ports = [Port.of(v) for v in net.graph.inputs if v.name in required]
        self.inputs = tuple(port.name for port in self._ports)
        self.outputs = tuple(port.name for port in self._fixed.outputs)

    def __reduce__(self) -> Any:
        """It is pickled as its model, and what runs it."""
        return _again, (Content.of(self._net), self._trainable, self._options)

    def _build(self, weights: Wrt) -> tuple[Function, dict[str, Array]]:
        return Function.of(with_free_batch(self._net), weights, **self._options)

    @property
    def params(self) -> dict[str, jax.Array]:
        """What the trainable weights hold in the file, by name."""
        return {name: _array(w) for name, w in self._with_params()[1].items()}

    def __call__(self, *inputs: Any, params: Mapping[str, Any] | None = None) -> Any:
        """The output, or a dict by name if the net has several.

        Args:
            inputs: In the order of `inputs`, or one dict by name. Arrays have the dtypes of the
                net; numbers and lists are converted.
            params: Weights in the place of those of the file, by name.

        Raises:
            FeedError: An input is missing, or has a wrong name, dtype or shape. float64 is wrong
                unless JAX is told to have it.
        """
        values = self._by_position(inputs)
        arrays = [_fitting(port, value) for port, value in zip(self._ports, values, strict=True)]
        called = self._fixed
        if params is not None:
            called, own = self._with_params()
            for name in params:
                if name not in own:
                    raise FeedError(f"params: there is no weight {name!r}.{nearest(name, own)}")
            ports = called.inputs[len(arrays) :]
            arrays += [_fitting(port, params.get(port.name, own[port.name])) for port in ports]
        for port in called.outputs:
            _require_float64(port)
        found = call(called, arrays)
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))

    def _by_position(self, inputs: tuple[Any, ...]) -> list[Any]:
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            for name in inputs[0]:
                if name not in self.inputs:
                    raise FeedError(
                        f"The net has no input {name!r}.{nearest(str(name), self.inputs)}"
                    )
            if missing := [name for name in self.inputs if name not in inputs[0]]:
                raise FeedError(f"No value for the input {', '.join(map(repr, missing))}.")
            return [inputs[0][name] for name in self.inputs]
        if len(inputs) != len(self.inputs):
            named = ", ".join(map(repr, self.inputs))
            raise FeedError(f"The net has {len(self.inputs)} inputs, {named}: give each a value.")
        return list(inputs)

    def _with_params(self) -> tuple[Function, dict[str, Array]]:
        if self._released is None:
            self._released = self._build(self._trainable)
        return self._released


def _again(content: Content, trainable: Wrt, options: Mapping[str, Any]) -> JaxFunction:
    """A function that was pickled."""
    return JaxFunction(io.load(content.model()), trainable, options)


def _fitting(port: Port, value: Any) -> jax.Array:
    """An input as an array of JAX, of the dtype and shape that the net takes.

    Raises:
        FeedError: It has another dtype or shape.
    """
    _require_float64(port)
    dtype = _held(port)
    array = jnp.asarray(value) if hasattr(value, "dtype") else jnp.asarray(value, dtype)
    if array.dtype != dtype:
        raise FeedError(
            f"{port.name!r} takes {dtype.name}, and {array.dtype.name} was given. Convert it with "
            f".astype(jnp.{dtype.name})."
        )
    port.require_shape(array.shape)
    return array


def _require_float64(port: Port) -> None:
    if port.dtype == np.float64 and _held(port) != np.float64:
        raise FeedError(
            f"{port.name!r} is of float64, which JAX does not have by default: call "
            'jax.config.update("jax_enable_x64", True) when the program starts.'
        )


def _held(port: Port) -> np.dtype:
    """The dtype that JAX has for that of a port: int32 for int64, unless it is told to have it."""
    if port.dtype is None:
        raise FeedError(f"{port.name!r} is no tensor of a known dtype, which JAX cannot hold.")
    return jax.dtypes.canonicalize_dtype(port.dtype)


def _array(value: Array) -> jax.Array:
    """An array of numpy as one of JAX; integers of 64 bits that JAX does not have are narrowed.

    Raises:
        FeedError: One of these does not fit.
    """
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    return jnp.asarray(value if dtype == value.dtype else _narrowed(value, dtype))


def _narrowed(value: Array, dtype: np.dtype) -> Array:
    narrow = value.astype(dtype)
    if not np.array_equal(narrow, value):
        raise FeedError(
            f"A result of {value.dtype.name} does not fit into {dtype.name}: call "
            'jax.config.update("jax_enable_x64", True) when the program starts.'
        )
    return narrow


# -- the primitive -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """What a call of the primitive computes: its only parameter, its operands are all inputs.

    Attributes:
        function: The function.
        linear: The indices of the inputs in which it is linear, all of them together.
        base, wrt, of: What the function is the jvp of, if it is one.
    """

    function: Function
    linear: tuple[int, ...] = ()
    base: Function | None = None
    wrt: tuple[int, ...] = ()
    of: tuple[int, ...] = ()

    def jvp(self, wrt: Sequence[int]) -> _Call:
        """The call of the jvp, linear in the tangents behind the inputs."""
        base, of = self.function, tuple(self.function.float_outputs)
        return _Call(base.jvp(wrt, of), _behind(base, wrt), base, tuple(wrt), of)

    def vjp(self, wrt: Sequence[int], of: Sequence[int]) -> _Call:
        """The call of the vjp, linear in the seeds behind the inputs."""
        return _Call(self.function.vjp(wrt, of), _behind(self.function, of))


def _behind(function: Function, added: Sequence[int]) -> tuple[int, ...]:
    count = len(function.inputs)
    return tuple(range(count, count + len(added)))


_onnx = Primitive("onnx")
_onnx.multiple_results = True


def call(function: Function, arrays: Iterable[Any]) -> list[Any]:
    """The outputs of a function at arrays of JAX of its dtypes, one for each input."""
    return _bind(_Call(function), arrays)


def _bind(call: _Call, arrays: Iterable[Any]) -> list[Any]:
    return _onnx.bind(*arrays, call=call)


def _run(function: Function, arrays: Sequence[Any]) -> list[Array]:
    """Run on arrays, with integers of the width that the net takes."""
    pairs = list(zip(function.inputs, arrays, strict=True))
    if any(_held(port) == jnp.bfloat16 for port in (*function.inputs, *function.outputs)):
        session: Any = function.session  # onnxruntime takes no bfloat16 of numpy
        given = {port.name: a if a.dtype == jnp.bfloat16 else _wide(port, a) for port, a in pairs}
        values = zip(function.outputs, session.exchange(given), strict=True)
        found = [
            np.asarray(jnp.from_dlpack(y)) if port.dtype == jnp.bfloat16 else y.numpy()
            for port, y in values
        ]
    else:
        found = function([_wide(port, a) for port, a in pairs])
    dtypes = [_held(port) for port in function.outputs]
    return [y if y.dtype == d else _narrowed(y, d) for y, d in zip(found, dtypes, strict=True)]


def _wide(port: Port, array: Any) -> Array:
    return np.asarray(array).astype(port.dtype, copy=False)


def _evaluate(*arrays: Any, call: _Call) -> list[jax.Array]:
    return [jnp.asarray(y) for y in _run(call.function, arrays)]


def _abstract(*avals: Any, call: _Call) -> list[Any]:
    shapes = call.function.shapes([a.shape for a in avals])
    for port, shape in zip(call.function.outputs, shapes, strict=True):
        if None in shape:
            raise FeedError(
                f"The sizes of {port.name!r} depend on the values of inputs, so that JAX can "
                "neither compile nor differentiate the net: call it outside of transforms."
            )
    dtypes = [_held(port) for port in call.function.outputs]
    return [jax.core.ShapedArray(s, d) for s, d in zip(shapes, dtypes, strict=True)]


def _compiled(*arrays: Any, call: _Call) -> Sequence[Any]:
    _ = call.function.session  # an error of the runtime is raised here, not out of the program
    results = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in _abstract(*arrays, call=call)]
    if not all(isinstance(size, int) for result in results for size in result.shape):
        raise FeedError(
            "The net is called for sizes that JAX knows, and not for symbols as jax.export has "
            "them: what is exported cannot call it. Export the net's own file with it."
        )

    def run(*given: Any) -> list[Array]:
        found = _run(call.function, given)
        call.function.require_told(found, [a.shape for a in given])
        return found

    return jax.pure_callback(run, results, *arrays)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, call: _Call) -> Any:
    """Tangents of inputs in which the function is linear go into itself, others into its jvp."""
    moved = [k for k, t in enumerate(tangents) if type(t) is not ad.Zero]
    bent = [k for k in moved if k not in call.linear]
    found, floats, parts = _bind(call, primals), call.function.float_outputs, []
    if bent and floats:
        parts.append(_bind(call.jvp(bent), [*primals, *(tangents[k] for k in bent)]))
    if len(bent) < len(moved):
        pairs = enumerate(zip(primals, tangents, strict=True))
        along = _bind(
            call, [ad.instantiate_zeros(t) if k in call.linear else x for k, (x, t) in pairs]
        )
        parts.append([along[k] for k in floats])
    sums = [ad.Zero(jax.typeof(y).to_tangent_aval()) for y in found]
    for part in parts:
        for k, t in zip(floats, part, strict=True):
            sums[k] = ad.add_tangents(sums[k], t)
    return found, sums


def _transpose(cotangents: Sequence[Any], *given: Any, call: _Call) -> list[Any]:
    """The cotangents of linear inputs, which are undefined: of a jvp they are the vjp."""
    undefined = [k for k, x in enumerate(given) if ad.is_undefined_primal(x)]
    of = [k for k, g in enumerate(cotangents) if type(g) is not ad.Zero]
    results: list[Any] = [None] * len(given)
    if not of:
        for k in undefined:
            results[k] = ad.Zero(given[k].aval)
        return results
    known = list(given)
    if call.base is not None:
        count = len(call.base.inputs)
        known = known[:count]
        wrt = [call.wrt[k - count] for k in undefined]
        transposed = _Call(call.base).vjp(wrt, [call.of[k] for k in of])
    else:
        for k in undefined:  # what it is does not matter, as the function is linear in it
            known[k] = jnp.zeros(given[k].aval.shape, given[k].aval.dtype)
        transposed = call.vjp(undefined, of)
    found = _bind(transposed, [*known, *(cotangents[k] for k in of)])
    for k, g in zip(undefined, found, strict=True):
        results[k] = g
    return results


def _batch(given: Sequence[Any], axes: Sequence[Any], *, call: _Call) -> Any:
    """A further batch is a part of the batch that the net has, or a Scan over it."""
    batched = [k for k, axis in enumerate(axes) if axis is not None]
    size = given[batched[0]].shape[axes[batched[0]]]
    arrays = [x if k not in batched else jnp.moveaxis(x, axes[k], 0) for k, x in enumerate(given)]
    own = call.function.batch
    if not set(batched) <= set(own):
        found = _bind(_Call(call.function.vmapped(batched), call.linear), arrays)
        return found, [0] * len(found)
    for k in own:
        if k not in batched:
            arrays[k] = jnp.broadcast_to(arrays[k], (size, *arrays[k].shape))
    counts = {arrays[k].shape[1] for k in own}
    if len(counts) > 1:
        raise FeedError(f"The batches of the net's inputs have different sizes: {sorted(counts)}.")
    (count,) = counts
    for k in own:
        arrays[k] = arrays[k].reshape(size * count, *arrays[k].shape[2:])
    found = _bind(call, arrays)
    return [y.reshape(size, count, *y.shape[1:]) for y in found], [0] * len(found)


_onnx.def_impl(_evaluate)
_onnx.def_abstract_eval(_abstract)
ad.primitive_jvps[_onnx] = _jvp
ad.primitive_transposes[_onnx] = _transpose
batching.primitive_batchers[_onnx] = _batch
mlir.register_lowering(_onnx, mlir.lower_fun(_compiled, multiple_results=True))
