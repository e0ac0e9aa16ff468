"""Reverse mode: what depends on what, the walk, what a rule may ask for, straight-through
gradients, tensors that are computed again. It names no operator, and imports `passes` and all
before it but the rules.
"""
