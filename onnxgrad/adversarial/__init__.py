"""Attacks and guidance: inputs that are moved along a gradient, by a file.

An attack gives the worst input near one, as a model from `x` and its labels to `x_adv`::

    og.adversarial.pgd(model, "image", eps=8 / 255, clip_min=0, clip_max=1)

`guidance` adds a classifier's gradient to what a diffusion model gives out.
"""

from onnxgrad.adversarial.attacks import fgsm, pgd
from onnxgrad.adversarial.guidance import guidance

__all__ = ["fgsm", "guidance", "pgd"]
