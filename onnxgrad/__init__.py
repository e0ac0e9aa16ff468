"""onnxgrad: any ONNX net in, an ONNX net out that also computes gradients.

Its public names are listed in `__init__.pyi`. A module is imported when a name of it is first used,
as SPEC 1 of Scientific Python describes.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
