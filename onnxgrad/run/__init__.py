"""Nets that run: values and gradients of arrays. It imports `transforms` and all before it."""
