"""Explanations: a model in, a model out that also gives attributions.

An attribution says how much each element of a tensor counts for the score of a class. Definitions,
arguments and defaults are those of captum 0.9 and of pytorch-grad-cam 1.5.
"""

from onnxgrad.explain.deep_lift import deep_lift, deep_lift_shap
from onnxgrad.explain.gradients import input_x_gradient, layer_gradient_x_activation, saliency
from onnxgrad.explain.noise import gradient_shap, noise_tunnel
from onnxgrad.explain.paths import (
    integrated_gradients,
    layer_conductance,
    layer_integrated_gradients,
)
from onnxgrad.explain.rectifiers import deconvolution, guided_backprop
from onnxgrad.explain.together import several

__all__ = [
    "deconvolution",
    "deep_lift",
    "deep_lift_shap",
    "gradient_shap",
    "guided_backprop",
    "input_x_gradient",
    "integrated_gradients",
    "layer_conductance",
    "layer_gradient_x_activation",
    "layer_integrated_gradients",
    "noise_tunnel",
    "saliency",
    "several",
]
