"""Everything that emits nodes: the builder and its tensors, static and symbolic sizes, windows,
interpolation, inner graphs, and the targets for which formulations are chosen. This folder
imports `graph`.
"""
