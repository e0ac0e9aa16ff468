"""Every error that this package raises on purpose. All of them are `OnnxGradError`."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping


class OnnxGradError(Exception):
    """Base of every error that onnxgrad raises on purpose.

    The message says what was wrong, where (operator, node, tensor) and what to do.
    """


class ModelError(OnnxGradError):
    """The model cannot be read: missing, truncated, not ONNX, or data outside its folder."""


class SaveError(OnnxGradError):
    """A file cannot be written. Nothing half-written is left behind."""


class ArgumentError(OnnxGradError):
    """The arguments make no sense together, or name a tensor that has no gradient."""


class UnknownNameError(ArgumentError):
    """No tensor, parameter or position of that name; the nearest names are listed."""


class UnreachableError(OnnxGradError):
    """The chosen outputs do not depend on the tensor, or only through zero derivatives.

    Args:
        what: What is wrong, and where.
        advice: What else the caller can do, each by the option that it takes.
    """

    def __init__(self, what: str, advice: Mapping[str, str]) -> None:
        super().__init__(what, advice)

    def __str__(self) -> str:
        what, advice = self.args
        return f"{what}. Choose other names{''.join(advice.values())}."

    def keep(self, options: Collection[str]) -> None:
        """Leave out the advice that a call with these options cannot follow."""
        what, advice = self.args
        self.args = what, {option: text for option, text in advice.items() if option in options}


class NoRuleError(OnnxGradError):
    """An operator on the path from the tensor to the output has no gradient rule."""


class RuleError(OnnxGradError):
    """A gradient rule is declared twice, or returned a cotangent of a wrong dtype or rank."""


class FeedError(OnnxGradError):
    """A value given to a net has the wrong name, dtype or shape."""


class TrainingError(OnnxGradError):
    """A training cannot go on: its loss or its gradient is not finite. The state before is kept."""


class RuntimeMissingError(OnnxGradError):
    """A library that an extra brings is not installed: what runs nets, reads images or draws."""


class ConstantSumWarning(UserWarning):
    """The scalar is a sum of probabilities, which is constant: its gradient is rounding noise."""


class QuantizedWarning(UserWarning):
    """A gradient flows through the scale of a quantisation alone, and means next to nothing."""


class SoftmaxWarning(UserWarning):
    """A net ends in a Softmax: what is explained is the score before it."""


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """The sentence that offers the names nearest to `name`, or an empty string."""
    known = [n for n in names if n]
    lower = {n.lower(): n for n in known}
    close = difflib.get_close_matches(name.lower(), lower, n=count, cutoff=0.5)
    close = [lower[c] for c in close] or [n for n in known if name.lower() in n.lower()][:count]
    return f" Nearest: {', '.join(repr(c) for c in close)}." if close else ""


def printable(text: str) -> str:
    """A text from a file as a terminal may show it: with its control characters spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
