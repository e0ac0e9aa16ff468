"""Reverse mode: what depends on what, the backward pass, the arguments of rules, straight-through
gradients, rematerialisation. It names no operator, and imports `passes` and all before it but the
rules.
"""
