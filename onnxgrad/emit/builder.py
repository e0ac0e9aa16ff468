"""The typed emitter `op`: the one place that creates nodes.

``op.MatMul(a, b, ...)`` appends a node of the standard and returns a `Tensor`. The arithmetic of a
`Tensor` emits nodes too, so that a rule reads like a formula: ``g * (1 - y * y)``. The node is
checked against the operator's schema and its output gets a dtype and a shape at once, so that an
error shows at the line that caused it. Equal nodes are emitted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxgrad.emit import factors, steps, views  # noqa: F401 - two of them declare rewrites
from onnxgrad.emit.finite import FACTOR, Numbers
from onnxgrad.emit.rewrites import Call, rewritten
from onnxgrad.emit.targets import Target, TargetName, target_of
from onnxgrad.emit.tensor import Refusal, Tensor, innermost
from onnxgrad.graph.errors import ArgumentError, RuleError
from onnxgrad.graph.facts import HALVES, Dim, dims_of
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.inference import Inference, attributes_key
from onnxgrad.graph.marks import STAND_IN
from onnxgrad.graph.schemas import Signature, signature_of

# Operators that cannot fail: they are emitted outside of a loop where their operands are outside.
_HOISTED = {"Shape", "Size", "Transpose"}

_Operands = tuple[ir.Value | None, ...]


class Builder:
    """Emits nodes at the end of a graph. ``op.Name(*inputs, **attributes)`` for any operator."""

    def __init__(
        self,
        graph: ir.Graph,
        parent: Builder | None = None,
        hoists: bool = False,
        target: TargetName = "cpu",
    ) -> None:
        self.graph = graph
        self.target: Target = parent.target if parent else target_of(target)
        self.hoists = hoists
        self.parent = parent
        self.opset: int = parent.opset if parent else graph.opset_imports[""]
        self.names: Names = parent.names if parent else Names(graph)
        self.scope = "grad"  # prefix of emitted names: the primal node that the rule is applied to
        self.inputs: list[ir.Value] = parent.inputs if parent else []  # those that it has added
        self.emitted: set[ir.Value] = parent.emitted if parent else set()
        # Values of the forward pass, and what takes their place once the walk is over.
        self.replaced: dict[ir.Value, ir.Value] = {}
        # By the name of a dimension that one input alone declares: that input and its axis, from
        # which shapes.dim reads the size.
        self.declared: dict[str, tuple[ir.Value, int]] = (
            parent.declared if parent else _declared_once(graph.inputs)
        )
        self._memo: dict[Any, tuple[ir.Value, ...]] = {}
        self.inference: Inference = parent.inference if parent else Inference(self.opset)
        self._consts: dict[Any, ir.Value] = {}
        # What `const` has made, so that no caller can ask for a gradient of it.
        self.constants: set[ir.Value] = parent.constants if parent else set()
        # Where `guards` is set, a mask's zero times what is not finite is 0: see `finite`. It is
        # not set for forward values, which stay as the net makes them.
        self.numbers: Numbers = parent.numbers if parent else Numbers(graph, self.emitted)
        self.guards: bool = parent.guards if parent else False

    # -- nodes ---------------------------------------------------------------------------------

    def __getattr__(self, op_type: str) -> Any:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def emit(*inputs: Tensor | None, outputs: int | None = None, **attributes: Any) -> Any:
            values = self.node(op_type, inputs, outputs or 1, attributes)
            return values[0] if outputs is None else values

        return emit

    def node(
        self,
        op_type: str,
        inputs: Sequence[Tensor | None],
        outputs: int = 1,
        attributes: dict[str, Any] | None = None,
        like: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, ...]:
        """Append a node of the standard's domain, or find an equal one.

        It is of the inner graph that an operand is of, where this builder emits around it.
        `like` gives the outputs' dtypes and shapes for a node that holds graphs: the standard's
        inference of a single node does not find them.

        Raises:
            RuleError: no such operator, attribute or number of operands in this opset, or the
                operands' dtypes or shapes do not fit it.
        """
        if (inner := innermost(self, op_type, inputs)) is not self:
            return inner.node(op_type, inputs, outputs, attributes, like)
        given = {k: v for k, v in (attributes or {}).items() if v is not None}
        found = rewritten(self, Call(op_type, inputs, outputs, given, like))
        if isinstance(found, Call):
            values = self._place(found, _values(found.inputs))
            return tuple(Tensor(self, v) for v in values)
        return found

    def _place(self, call: Call, operands: _Operands) -> tuple[ir.Value, ...]:
        """The outputs of an equal node, or of a new one: outside of this graph where possible."""
        key = (call.op_type, operands, call.outputs, attributes_key(call.attributes))
        found = self._recall(key)
        if found is not None:
            return found
        if self.parent and self._is_invariant(call, operands):
            return self.parent._place(call, operands)
        signature = signature_of(call.op_type, self.opset)
        if signature is None:
            raise RuleError(f"opset {self.opset} has no operator {call.op_type!r} ({self.scope})")
        self._check(signature, call, operands)
        found = self._memo[key] = self._append(signature, call, operands)
        return found

    def _recall(self, key: Any) -> tuple[ir.Value, ...] | None:
        if key in self._memo:
            return self._memo[key]
        return self.parent._recall(key) if self.parent else None

    def _is_invariant(self, call: Call, operands: _Operands) -> bool:
        """Whether a node of an inner graph can stand outside of it."""
        if any(isinstance(a, ir.Graph) for a in call.attributes.values()):
            return False
        outside = all(v is None or v.graph is not self.graph for v in operands)
        return outside and (self.hoists or call.op_type in _HOISTED)

    def _check(self, signature: Signature, call: Call, operands: _Operands) -> None:
        """Raise a RuleError where the operator has no such attribute or number of operands."""
        for name in call.attributes:
            if name not in signature.attributes:
                raise RuleError(
                    f"{call.op_type} has no attribute {name!r} in opset {self.opset} "
                    f"({self.scope}); it has {', '.join(signature.attributes) or 'none'}"
                )
        if not signature.least <= len(operands) <= signature.most:
            raise RuleError(
                f"{call.op_type} takes {signature.least} to {signature.most} operands, "
                f"not {len(operands)} ({self.scope})"
            )

    def _append(
        self, signature: Signature, call: Call, operands: _Operands
    ) -> tuple[ir.Value, ...]:
        """Append a node, whose outputs get names, dtypes and shapes."""
        node = ir.Node(
            "",
            call.op_type,
            operands,
            [_attribute(name, value) for name, value in call.attributes.items()],
            num_outputs=call.outputs,
            name=self.names.fresh(f"{self.scope}/{call.op_type}"),
        )
        for k, out in enumerate(node.outputs):
            formal = signature.outputs[min(k, len(signature.outputs) - 1)]
            out.name = self.names.fresh(f"{node.name}_{formal}")
        if call.like is None:
            self.infer_outputs(node)
        else:
            for out, t in zip(node.outputs, call.like, strict=True):
                out.type, out.shape = t.value.type, t.value.shape
        self.graph.append(node)
        self.emitted.update(node.outputs)
        return tuple(node.outputs)

    def child(self, name: str, hoists: bool = False) -> Builder:
        """A builder of a new inner graph, which sees all that this one has emitted.

        Args:
            name: A stem for the graph's name.
            hoists: Emit nodes that do not depend on the inner graph outside of it. Only for an
                inner graph that is sure to run.
        """
        opsets = dict(self.graph.opset_imports)
        graph = ir.Graph([], [], nodes=[], opset_imports=opsets, name=self.names.fresh(name))
        inner = Builder(graph, self, hoists)
        inner.scope = self.scope
        return inner

    def infer_outputs(self, node: ir.Node) -> None:
        """Infer the dtypes and shapes of a node's outputs that have none.

        Raises:
            RuleError: The operands' dtypes or shapes do not fit the operator.
        """
        try:
            self.inference.infer(node)
        except RuleError as e:
            raise RuleError(f"{e} ({self.scope})") from e

    # -- values --------------------------------------------------------------------------------

    def tensor(self, value: ir.Value) -> Tensor:
        """A value of the graph as an operand."""
        return Tensor(self, value)

    def const(self, array: Any, like: Tensor | None = None, dtype: Any = None) -> Tensor:
        """A constant, of the dtype of `like`, else `dtype`, else int64, for whole numbers alone.

        Raises:
            ArgumentError: The numbers are floating-point and neither `like` nor `dtype` is given.
        """
        if self.parent:
            return Tensor(self, self.parent.const(array, like, dtype).value)
        is_float = np.size(array) and np.asarray(array).dtype.kind == "f"
        if like is None and dtype is None and is_float:
            raise ArgumentError(
                "op.const got floating-point numbers without their dtype: give it `like`, a tensor "
                "that has it, or `dtype`."
            )
        kind = like.dtype.numpy() if like is not None else np.dtype(dtype or np.int64)
        array = np.asarray(array, dtype=kind)
        key = (kind, array.shape, array.tobytes())
        if key not in self._consts:
            value = ir.Value(
                name=self.names.fresh("const"),
                shape=ir.Shape(array.shape),
                type=ir.TensorType(ir.DataType.from_numpy(kind)),
            )
            value.const_value = ir.Tensor(array, name=value.name)
            self.graph.register_initializer(value)
            self._consts[key] = value
            self.constants.add(value)
        return Tensor(self, self._consts[key])

    def weight(self, name: str, array: Any, like: Tensor) -> Tensor:
        """A weight under a name, which training can change. Equal constants are one, weights not.

        Args:
            name: Its name.
            array: What it holds at first.
            like: A tensor of its dtype.

        Raises:
            ArgumentError: The net has a tensor of that name.
        """
        if self.parent:
            return Tensor(self, self.parent.weight(name, array, like).value)
        if name in self.names.taken:
            raise ArgumentError(f"the net has a tensor {name!r} already: name the weight otherwise")
        content = np.array(array, dtype=like.dtype.numpy())
        value = ir.Value(name=name, shape=ir.Shape(content.shape), type=ir.TensorType(like.dtype))
        value.const_value = ir.Tensor(content, name=name)
        self.names.taken.add(name)
        self.graph.register_initializer(value)
        return Tensor(self, value)

    def typed(self, t: Tensor, like: Tensor) -> Tensor:
        """`t`, with the shape of `like`, which it is known to have, where inference has lost it."""
        mine, its = t.shape, like.shape
        if its is not None and mine is not None and len(mine) != len(its):
            self.refuse(f"{like.value.name!r} has {len(its)} axes, its cotangent {len(mine)}")
        if its is not None and mine != its and t.static is None:
            pairs = zip(mine, its, strict=True) if mine is not None else ((None, d) for d in its)
            t.value.shape = ir.Shape([b if b is not None else a for a, b in pairs])
        return t

    # -- ports ---------------------------------------------------------------------------------

    def input(
        self,
        name: str,
        shape: Sequence[Dim] | None,
        dtype: Any = np.float32,
        renamed: str = "",
    ) -> Tensor:
        """A graph input: a new one, or the one that this builder has added under the same name.

        Args:
            name: Its name.
            shape: Its dimensions: sizes, names of sizes, or None for any; None if it is not known.
            dtype: What numpy or onnx_ir take for a dtype.
            renamed: What gives it another name, for the error where this one is taken.

        Raises:
            ArgumentError: The net has a tensor of that name, or one was added of another type.
        """
        if self.parent:
            return self.parent.input(name, shape, dtype, renamed)
        kind = dtype if isinstance(dtype, ir.DataType) else ir.DataType.from_numpy(np.dtype(dtype))
        given = next((v for v in self.inputs if v.name == name), None)
        if given is None:
            if name in self.names.taken:
                how = f" with {renamed}" if renamed else ""
                raise ArgumentError(
                    f"the net has a tensor {name!r} already: give the new input another name{how}"
                )
            dims = None if shape is None else ir.Shape(shape)
            given = ir.Value(name=name, type=ir.TensorType(kind), shape=dims)
            self.names.taken.add(name)
            self.graph.inputs.append(given)
            self.inputs.append(given)
        elif given.dtype != kind or dims_of(given) != (shape and tuple(shape)):
            raise ArgumentError(
                f"the input {name!r} is added as {given.type} {given.shape} and as {kind.name} "
                f"{shape}: give one of them another name"
            )
        return self.tensor(given)

    def output(self, name: str, t: Tensor) -> None:
        """List a tensor as an output of the graph under a name that is not taken."""
        value = t.value
        own = value in self.emitted and value.graph is self.graph
        if not own or value in self.graph.outputs:
            value = self.copied(t, f"{name}/Identity")
        value.name = name
        self.graph.outputs.append(value)

    def copied(self, t: Tensor, stem: str) -> ir.Value:
        """A copy of a tensor by a new Identity, for one of any elements, though these be known."""
        node = ir.Node("", "Identity", [t.value], name=self.names.fresh(stem))
        value = node.outputs[0]
        value.name, value.type, value.shape = self.names.fresh(stem), t.value.type, t.value.shape
        STAND_IN.set(value, True)
        self.graph.append(node)
        return value

    # -- cotangents ----------------------------------------------------------------------------

    def scale(self, g: Tensor, derivative: Any) -> Tensor | None:
        """The cotangent `g` times a derivative: a number, a tensor, or booleans to let it pass.

        The product is taken in the dtype of the derivative, which may be the wider one. In half
        precision a derivative that is a quotient may overflow, so the cotangent is divided instead.
        """
        if not isinstance(derivative, Tensor):
            return g * derivative if derivative else None
        if derivative.dtype == ir.DataType.BOOL:
            return self.mask(g, derivative)
        if derivative.dtype != g.dtype:
            return self.cast(self.cast(g, derivative.dtype) * derivative, g.dtype)
        return self._divided(g, derivative) if g.dtype in HALVES else g * derivative

    def _divided(self, g: Tensor, derivative: Tensor) -> Tensor:
        """`g` times a derivative; by a division where this pass has emitted it as a quotient."""
        node = derivative.value.producer() if derivative.value in self.emitted else None
        operands = [] if node is None else [self.tensor(v) for v in node.inputs if v is not None]
        match node.op_type if node is not None else "":
            case "Neg":
                return -self._divided(g, operands[0])
            case "Reciprocal":
                return g / operands[0]
            case "Div":
                return g / operands[1] * operands[0]
        return g * derivative

    def mask(self, g: Tensor, passes: Tensor) -> Tensor:
        """`g` where `passes`, else 0.

        Where the target says so, the mask is a product with zeros and ones. But 0 times infinity
        is NaN: if `g` may be infinite, as behind a Sqrt at 0, the mask is a Where.
        """
        if self.numbers.may_fail(g.value) or not self.target.product_masks:
            y = self.Where(passes, g, self.const(0, like=g))
            self.numbers.note_mask(y.value, self.numbers.masked(g.value) | FACTOR)
            return y
        return g * steps.ones(passes, like=g)

    def picked(self, g: Tensor) -> bool:
        """Whether a Where has put zeros into a cotangent, for elements that it discards."""
        node = g.value.producer()
        while node is not None and node.op_type in ("Cast", "Identity", "Reshape"):
            node = node.inputs[0].producer() if node.inputs[0] is not None else None
        return node is not None and node.op_type == "Where"

    def bounded(self, t: Tensor) -> Tensor:
        """`t`, marked as finite wherever its operands are, though a singular operator gives it."""
        self.numbers.trust(t.value)
        return t

    def promoted(self, t: Tensor) -> Tensor:
        """`t` in at least float32, in which squares, counts and their reciprocals have room."""
        return self.Cast(t, to=ir.DataType.FLOAT) if t.dtype in HALVES else t

    def cast(self, t: Tensor, dtype: ir.DataType) -> Tensor:
        """`t` with `dtype`, unchanged where it has it."""
        return t if t.dtype == dtype else self.Cast(t, to=dtype)

    def sum(self, tensors: Sequence[Tensor]) -> Tensor:
        """The sum of tensors of equal shape."""
        if len(tensors) == 1:
            return tensors[0]
        if len(tensors) == 2:
            return tensors[0] + tensors[1]
        return self.Sum(*tensors)

    def holds(self, t: Tensor) -> bool:
        """Whether `t` is of the very graph that this builder emits to."""
        return t.value.graph is self.graph

    def replace(self, node: ir.Node, outputs: Sequence[Tensor]) -> None:
        """Replace a forward node: equal tensors take the place of its outputs, and it is not run.

        For a rule that computes the outputs anyway, to get values that the node does not give out.

        Args:
            node: A node of the graph that this builder emits to.
            outputs: The tensors, which depend on nothing that depends on the node.
        """
        for v, t in zip(node.outputs, outputs, strict=False):
            if v.name:
                self.replaced[v] = t.value

    def refuse(self, reason: str) -> Any:
        """Raise an error: this node cannot be differentiated. The engine adds which node it is.

        Args:
            reason: What has no rule, and what the user can do.
        """
        raise Refusal(reason)


def _declared_once(inputs: Sequence[ir.Value]) -> dict[str, tuple[ir.Value, int]]:
    found: dict[str, list[tuple[ir.Value, int]]] = {}
    for v in inputs:
        for axis, d in enumerate(dims_of(v) or () if isinstance(v.type, ir.TensorType) else ()):
            if isinstance(d, str):
                found.setdefault(d, []).append((v, axis))
    return {name: places[0] for name, places in found.items() if len(places) == 1}


def _attribute(name: str, value: Any) -> ir.Attr:
    """An attribute. onnx_ir takes long to see what most values are."""
    if isinstance(value, int):
        return ir.AttrInt64(name, value)
    if isinstance(value, float):
        return ir.AttrFloat32(name, value)
    if isinstance(value, list | tuple) and value and all(isinstance(n, int) for n in value):
        return ir.AttrInt64s(name, value)
    if isinstance(value, ir.Tensor):
        return ir.AttrTensor(name, value)
    return ir.convenience.convert_attributes({name: value})[0]


def _values(inputs: Sequence[Tensor | None]) -> _Operands:
    """The operands as values; those absent at the end are left out."""
    values = [None if t is None else t.value for t in inputs]
    while values and values[-1] is None:
        values.pop()
    return tuple(values)
