"""What makes nodes: the builder and its tensors, sizes that are static or not, windows,
interpolation, inner graphs, and the targets that formulations are chosen for. It imports
`graph`.
"""
