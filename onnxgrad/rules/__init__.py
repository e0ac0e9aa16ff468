"""The gradient rules, one module per family of operators. Importing the folder fills the table.
They import `declare` and all before it, and know no engine.
"""

import importlib
import pkgutil

from onnxgrad.declare.registry import mark_as_own

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
mark_as_own()
