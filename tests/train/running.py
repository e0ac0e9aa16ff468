"""Runs a step as a consumer in any language does: run, copy outputs to inputs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.oracle import runner

Arrays = dict[str, np.ndarray]


def metadata(model: onnx.ModelProto, name: str) -> dict[str, Any]:
    return json.loads({p.key: p.value for p in model.metadata_props}[name])


def constants(model: onnx.ModelProto) -> Arrays:
    """The initializers and the tensors of Constant nodes, those of inner graphs too."""
    found: Arrays = {}

    def visit(graph: onnx.GraphProto) -> None:
        found.update({t.name: numpy_helper.to_array(t) for t in graph.initializer})
        for node in graph.node:
            for a in node.attribute:
                if node.op_type == "Constant" and a.name == "value":
                    found[node.output[0]] = numpy_helper.to_array(a.t)
                elif a.type == onnx.AttributeProto.GRAPH:
                    visit(a.g)

    visit(model.graph)
    return found


class Loop:
    """A step and its state."""

    def __init__(self, step: onnx.ModelProto, model: onnx.ModelProto | Arrays) -> None:
        """`model` has the weights."""
        onnx.checker.check_model(step, full_check=True)
        self.names = metadata(step, "onnxgrad.state")
        initial = metadata(step, "onnxgrad.initial")
        weights = constants(model) if isinstance(model, onnx.ModelProto) else model
        self.run = runner(step)
        self.state: Arrays = {}
        for port in step.graph.input:
            kind = port.type.tensor_type
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if port.name in initial:
                shape = [d.dim_value for d in kind.shape.dim]
                self.state[port.name] = np.full(shape, initial[port.name], dtype)
            elif port.name in self.names:
                self.state[port.name] = weights[port.name].astype(dtype)
        assert self.state.keys() == self.names.keys()
        self.outputs = [v.name for v in step.graph.output]

    def __call__(self, lr: float, **feeds: np.ndarray) -> Arrays:
        """One run; the outputs that are no state."""
        given = {**self.state, **feeds, "learning_rate": np.array(lr, np.float32)}
        found = dict(zip(self.outputs, self.run(given), strict=True))
        self.state = {name: found[following] for name, following in self.names.items()}
        return {k: v for k, v in found.items() if k not in self.names.values()}
