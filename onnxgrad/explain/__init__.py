"""Explanations: a model in, a model out that also gives attributions.

An attribution says how much each element of a tensor counts for the score of a class. Definitions,
arguments and defaults are those of captum 0.9 and of pytorch-grad-cam 1.5.
"""

from onnxgrad.explain.gradients import input_x_gradient, saliency
from onnxgrad.explain.paths import (
    integrated_gradients,
    layer_conductance,
    layer_integrated_gradients,
)

__all__ = [
    "input_x_gradient",
    "integrated_gradients",
    "layer_conductance",
    "layer_integrated_gradients",
    "saliency",
]
