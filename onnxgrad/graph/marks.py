"""What is noted on values while a net is differentiated."""

from __future__ import annotations

import onnx_ir as ir

# In a value's meta: the dtype of its cotangents, where it is a rounded number that a
# straight-through gradient takes for the number itself.
ROUNDED = "onnxgrad.rounded"

# In a value's meta: no cotangent is to flow through it.
STOPPED = "onnxgrad.stopped"

# In an output's meta: the shape that the file declares.
_DECLARED = "onnxgrad.declared"


def keep_declared(output: ir.Value) -> None:
    """Note what the file declares of an output, which may be wrong."""
    output.meta.setdefault(_DECLARED, output.shape)


def restore_declared(output: ir.Value) -> None:
    """Declare what the file did, where no shape is known: a graph's output needs one."""
    if output.shape is None:
        output.shape = output.meta.get(_DECLARED)


# In a value's meta: its rank, where an example has told it.
_LEARNT = "onnxgrad.rank"


def learn_rank(value: ir.Value, rank: int) -> None:
    """Note the rank that a value had in an example."""
    value.meta[_LEARNT] = rank


def learnt(value: ir.Value) -> ir.Shape | None:
    """The shape of a value as far as an example has told it."""
    rank = value.meta.get(_LEARNT)
    return None if rank is None else ir.Shape([None] * rank)
