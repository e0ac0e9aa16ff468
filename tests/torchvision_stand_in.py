"""pytorch_grad_cam where torchvision is missing, whose wheel does not fit PyTorch's CPU build.

The names that it imports of torchvision belong to the preparation of images and to a target for
detectors. What is compared with it needs neither.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import NoReturn

import pytest

NAMES = {
    "torchvision": [],
    "torchvision.transforms": ["Compose", "Normalize", "ToTensor"],
    "torchvision.transforms.functional": ["resize"],
}


def grad_cam() -> ModuleType:
    """The module pytorch_grad_cam; without the package, the test that asks for it is skipped.

    The stand-in is there only while it is imported: other packages ask whether torchvision is.
    """
    missing = importlib.util.find_spec("torchvision") is None
    if missing:
        sys.modules.update({name: _module(name, members) for name, members in NAMES.items()})
    try:
        return pytest.importorskip(
            "pytorch_grad_cam", reason="Grad-CAM is not installed: make explainers"
        )
    finally:
        for name in NAMES if missing else ():
            del sys.modules[name]


def _module(name: str, members: list[str]) -> ModuleType:
    module = ModuleType(name)
    for member in members:
        setattr(module, member, _absent)
    return module


def _absent(*_: object, **__: object) -> NoReturn:
    raise NotImplementedError("this needs torchvision itself")
