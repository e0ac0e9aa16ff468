"""Heads: what is to be differentiated of a net, said in place of a tensor's name.

A head is a formula of tensors of a net, such as the score of a class. Every `of` takes one::

    og.gradient(model, "image", of=og.heads.class_score("logits", target=3))

`attach` makes it an output of the model.
"""

from onnxgrad.heads.head import Head
from onnxgrad.heads.scores import (
    class_score,
    log_probability,
    margin,
    norm,
    probability,
    top_class,
    weighted_sum,
)

__all__ = [
    "Head",
    "class_score",
    "log_probability",
    "margin",
    "norm",
    "probability",
    "top_class",
    "weighted_sum",
]
