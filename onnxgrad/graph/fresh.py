"""Fresh names for the values and nodes of a model."""

from __future__ import annotations

import onnx_ir as ir

from onnxgrad.graph.facts import all_nodes, subgraphs


class Names:
    """Fresh names for the values and nodes of one model."""

    def __init__(self, graph: ir.Graph) -> None:
        self.taken: set[str] = set(graph.initializers)
        self.taken.update(v.name for v in graph.inputs if v.name)
        for node in all_nodes(graph):
            self.taken.add(node.name or "")
            self.taken.update(v.name for v in node.outputs if v.name)
            for sub in subgraphs(node):
                self.taken.update(v.name for v in sub.inputs if v.name)
                self.taken.update(sub.initializers)
        self._next: dict[str, int] = {}

    def fresh(self, stem: str) -> str:
        """`stem`, numbered where it is taken."""
        name = stem
        while name in self.taken:
            self._next[stem] = self._next.get(stem, 0) + 1
            name = f"{stem}_{self._next[stem]}"
        self.taken.add(name)
        return name

    def suffixed(self, name: str, suffix: str) -> str:
        """`name` + `suffix`, with the suffix repeated for as long as the result is taken."""
        name += suffix
        while name in self.taken:
            name += suffix
        self.taken.add(name)
        return name
