"""The gradient rules, one module per family of operators. Importing a module fills the table."""

import importlib
import pkgutil

from onnxgrad.registry import settle

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
settle()
