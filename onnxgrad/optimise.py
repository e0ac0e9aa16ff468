"""The passes after differentiation: what neither an output nor a gradient needs goes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def optimise(model: ir.Model) -> None:
    """Remove dead nodes and initializers and unused opset imports, in place."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
