"""Attributions of the tokens of a text, as a page of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from onnxgrad.explain.layouts import arranged
from onnxgrad.explain.scaling import Sign, normalised, sign_of
from onnxgrad.graph.errors import ArgumentError
from onnxgrad.runtimes.ports import Array

# Text of either theme can be read on the two colours, which people who are colour-blind tell apart.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --for: 178, 24, 43; --against: 33, 102, 172; }}
body {{ font: 1.1rem/2 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto;
  padding: 0 1rem; background: Canvas; color: CanvasText; }}
h1 {{ font-size: 1.2rem; line-height: 1.4; }}
.tokens {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
.tokens span {{ padding: .15em .2em; margin: 0 .06em; border-radius: .2em;
  border-bottom: 3px solid transparent; }}
.for {{ background: rgba(var(--for), var(--much)); }}
.against {{ background: rgba(var(--against), var(--much)); }}
.tokens .against {{ border-bottom: 3px dotted rgb(var(--against)); }}
.tokens .for {{ border-bottom: 3px solid rgb(var(--for)); }}
.legend {{ font-size: .9rem; }}
.legend span {{ padding: .15em .5em; border-radius: .2em; --much: .6; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="tokens" role="list" aria-label="Tokens, each with its attribution">{tokens}</p>
<p class="legend">{legend} The stronger the colour, the more a token counts.</p>
</body>
</html>
"""
_LEGEND = {"for": '<span class="for">for</span>', "against": '<span class="against">against</span>'}
# The most opaque colour, and the least that has a line under it.
_OPAQUE, _LINED = 0.6, 0.05


def html(
    tokens: Sequence[Any],
    attribution: Any,
    *,
    sign: Sign | None = None,
    outlier_perc: float = 2,
    layout: str | None = None,
    example: int = 0,
    title: str = "Attribution of the tokens",
) -> str:
    """A page that shows tokens in the colours of their attributions.

    It needs no other file, is for light and dark screens, and tells screen readers the numbers.

    Args:
        tokens: The tokens of one example, shown as they are: no text is taken for HTML.
        attribution: An array with a value for each token, as [N, S], or for each element of its
            embedding, as [N, S, C]; those are added up.
        sign, outlier_perc, example: As for `show`.
        layout: What the axes of `attribution` are: "S", "NS", "SC", "NSC", "NCS". None for a guess.
        title: The heading of the page.

    Returns:
        The page.

    Raises:
        ArgumentError: The tokens are not as many as the attributions.

    Example:
        >>> page = og.explain.html(["a", "good", "film"], np.array([[0.1, 0.9, -0.2]]))
        >>> page.count("<span role")
        3
    """
    array = np.asarray(attribution)
    layout = layout.upper() if layout else _layout(array, len(tokens))
    values = arranged(array, layout, example).astype(np.float64).sum(axis=0)
    if len(values) != len(tokens):
        raise ArgumentError(f"there are {len(tokens)} tokens and {len(values)} attributions")
    sign = sign_of(values, sign)
    shades = normalised(values, sign, outlier_perc)
    if sign == "negative":
        shades = -shades
    sides = {"positive": ["for"], "negative": ["against"]}.get(sign, ["for", "against"])
    sides = ["for"] if sign == "absolute_value" else sides
    return _PAGE.format(
        title=escape(title),
        tokens=" ".join(map(_token, tokens, values, shades)),
        legend=" ".join(_LEGEND[side] for side in sides),
    )


def _layout(array: Array, count: int) -> str:
    """Which axis of an attribution is that of the tokens."""
    if array.ndim == 2:
        return "SC" if array.shape[0] == count and array.shape[1] != count else "NS"
    if array.ndim == 3:
        return "NCS" if array.shape[2] == count and array.shape[1] != count else "NSC"
    return "S"


def _token(token: Any, value: float, shade: float) -> str:
    side = "for" if shade > 0 else "against"
    style = f' class="{side}" style="--much: {abs(shade) * _OPAQUE:.3f}"'
    text, number = escape(str(token)), f"{value:+.3g}"
    name = escape(str(token).strip() or repr(str(token)))
    style = style if abs(shade) >= _LINED else ""
    return (
        f'<span role="listitem" aria-label="{name}: {number}" title="{number}"{style}>{text}</span>'
    )
