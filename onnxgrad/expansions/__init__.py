"""Operators that are replaced by others: those of com.microsoft, of ai.onnx.ml, the training ones.
Importing the folder fills the table. They import `declare` and all before it, and know no
engine.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
