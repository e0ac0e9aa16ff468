"""A net as a differentiable function of other frameworks, a module each, imported when it is used.

from onnxgrad import bridges
layer = bridges.torch.layer("model.onnx")
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
