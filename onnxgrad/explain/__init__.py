"""Explanations: a model in, a model out that also gives attributions, and their pictures.

An attribution says how much each element of a tensor counts for the score of a class. Definitions,
arguments and defaults are those of captum 0.9 and of pytorch-grad-cam 1.5.
"""

from onnxgrad.explain.cams import (
    grad_cam,
    grad_cam_element_wise,
    grad_cam_plus_plus,
    guided_grad_cam,
    hires_cam,
    layer_cam,
    x_grad_cam,
)
from onnxgrad.explain.deep_lift import deep_lift, deep_lift_shap
from onnxgrad.explain.full_grad import full_grad
from onnxgrad.explain.gradients import input_x_gradient, layer_gradient_x_activation, saliency
from onnxgrad.explain.images import image
from onnxgrad.explain.noise import gradient_shap, noise_tunnel
from onnxgrad.explain.paths import (
    integrated_gradients,
    layer_conductance,
    layer_integrated_gradients,
)
from onnxgrad.explain.pictures import show
from onnxgrad.explain.rectifiers import deconvolution, guided_backprop
from onnxgrad.explain.together import several
from onnxgrad.explain.tokens import html

__all__ = [
    "deconvolution",
    "deep_lift",
    "deep_lift_shap",
    "full_grad",
    "grad_cam",
    "grad_cam_element_wise",
    "grad_cam_plus_plus",
    "gradient_shap",
    "guided_backprop",
    "guided_grad_cam",
    "hires_cam",
    "html",
    "image",
    "input_x_gradient",
    "integrated_gradients",
    "layer_cam",
    "layer_conductance",
    "layer_gradient_x_activation",
    "layer_integrated_gradients",
    "noise_tunnel",
    "saliency",
    "several",
    "show",
    "x_grad_cam",
]
