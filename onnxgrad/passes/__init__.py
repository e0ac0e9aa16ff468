"""What is done to a model before and after differentiation: normalised into one dialect, inferred,
expanded, cleaned up. These import `declare` and all before it, and a runtime only to learn ranks
from an example.
"""
