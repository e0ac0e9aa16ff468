"""Losses: heads that compare a tensor of a net with labels, as torch.nn.functional defines them.

Every `of` takes a loss, and `attach` makes it an output of the model. The labels are a new input::

    og.gradient(model, og.ALL, of=og.losses.cross_entropy("logits"))
"""

from onnxgrad.losses.classification import cross_entropy
from onnxgrad.losses.regression import mse

__all__ = ["cross_entropy", "mse"]
