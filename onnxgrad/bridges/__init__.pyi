from . import art, jax, pytensor, saliency, scipy, torch

__all__ = ["art", "jax", "pytensor", "saliency", "scipy", "torch"]
