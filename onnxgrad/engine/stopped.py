"""Stop-gradient: tensors that count as constants, whatever they are computed from.

All that uses such a tensor gets it through an Identity that no cotangent passes, for as long as the
net is differentiated. So the node that gives the tensor, whose rule may use its outputs, sees the
tensor itself.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnxgrad.graph.facts import all_nodes
from onnxgrad.graph.fresh import Names
from onnxgrad.graph.marks import STOPPED


def stop(graph: ir.Graph, constant: Collection[str], names: Names) -> None:
    """Let no cotangent flow from the tensors named `constant` to what they are computed from."""
    if not constant:
        return
    computed = [v for node in graph for v in node.outputs if v.name in constant]
    for v in computed:
        node = v.producer()
        assert node is not None
        gate = ir.node("Identity", [v], name=names.fresh(f"{v.name}/constant"))
        out = gate.outputs[0]
        out.type, out.shape = v.type, v.shape
        STOPPED.set(out, True)
        v.replace_all_uses_with(out, replace_graph_outputs=True)
        gate.replace_input_with(0, v)
        out.name, v.name = v.name, names.fresh(f"{v.name}/computed")
        node.append(gate)


def is_gate(node: ir.Node) -> bool:
    """Whether a node is one that no cotangent passes."""
    return node.op_type == "Identity" and STOPPED.on(node.outputs[0])


def restore(graph: ir.Graph) -> None:
    """Undo what `stop` has done, in inner graphs too."""
    for gate in [node for node in all_nodes(graph) if is_gate(node)]:
        out, v = gate.outputs[0], gate.inputs[0]
        assert v is not None and gate.graph is not None
        out.replace_all_uses_with(v, replace_graph_outputs=True)
        v.name = out.name
        gate.graph.remove(gate, safe=True)
