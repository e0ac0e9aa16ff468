"""Passes over a model before and after differentiation: they bring it into one dialect, infer its
types and shapes, expand operators, and clean up. They import `declare` and all folders before it.
They use a runtime only to learn ranks from an example.
"""
