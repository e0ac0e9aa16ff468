"""Nets on several machines, a module an engine, which is imported when it is used.

from onnxgrad import parallel
attributions = parallel.ray.map("explain.onnx", "images/", workers=8)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
