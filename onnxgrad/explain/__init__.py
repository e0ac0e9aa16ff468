"""Explanations: a model in, a model out that also gives attributions, and their pictures.

An attribution says how much each element of a tensor counts for the score of a class. Definitions,
arguments and defaults are those of captum 0.9 and of pytorch-grad-cam 1.5.
"""

from onnxgrad.explain.gradients import input_x_gradient, saliency
from onnxgrad.explain.images import image
from onnxgrad.explain.pictures import show
from onnxgrad.explain.tokens import html

__all__ = ["html", "image", "input_x_gradient", "saliency", "show"]
