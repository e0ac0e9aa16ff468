"""Losses: heads that compare a tensor of a net with labels, as torch.nn.functional defines them.

Every `of` takes a loss, and `attach` makes it an output of the model. The labels are a new input::

    og.gradient(model, og.ALL, of=og.losses.cross_entropy("logits"))
"""

from onnxgrad.losses.classification import cross_entropy, nll
from onnxgrad.losses.distributions import bce, bce_with_logits, kl_div
from onnxgrad.losses.embeddings import cosine_embedding, hinge
from onnxgrad.losses.regression import huber, l1, mse, smooth_l1

__all__ = [
    "bce",
    "bce_with_logits",
    "cosine_embedding",
    "cross_entropy",
    "hinge",
    "huber",
    "kl_div",
    "l1",
    "mse",
    "nll",
    "smooth_l1",
]
