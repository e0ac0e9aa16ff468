from __future__ import annotations

from typing import Any

import numpy as np

from tests.samples import Array, Sample, ints, normal

# A query that attends nothing.
_BLIND = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
_HIDDEN = np.where(_BLIND, 0.5, -np.inf)


def _operands(heads: int = 2, kv: int = 2, rank: int = 4, keys: int = 5) -> list[Array]:
    if rank == 4:
        return [normal(2, heads, 3, 4), normal(2, kv, keys, 4), normal(2, kv, keys, 2)]
    return [normal(2, 3, heads * 4), normal(2, keys, kv * 4), normal(2, keys, kv * 2)]


def _past(kv: int = 2) -> list[Array | None]:
    return [None, normal(2, kv, 2, 4), normal(2, kv, 2, 2)]


def _attention(operands: list[Array | None], opset: int = 24, **attributes: Any) -> Sample:
    known = ("outputs", "of", "wrt", "note", "symbolic")
    others = {k: attributes.pop(k) for k in known if k in attributes}
    return Sample("Attention", operands, attributes, opset=opset, **others)


def _linear(heads: int, kv: int, *more: Array | None, rule: str, **attributes: Any) -> Sample:
    """Four steps, of keys of size 3 and values of size 2."""
    operands = [normal(2, 4, heads * 3), normal(2, 4, kv * 3), normal(2, 4, kv * 2), *more]
    attributes |= {"q_num_heads": heads, "kv_num_heads": kv, "update_rule": rule}
    return Sample(
        "LinearAttention", operands, attributes,
        outputs=2, opset=27, reference=True, single=True, tolerance=3e-3,
    )  # fmt: skip


_PLACES = np.array([[0, 4, 4]])

SAMPLES = [
    _attention(_operands(), opset=23),
    _attention(_operands(), opset=23, is_causal=1),
    _attention(_operands(rank=3), q_num_heads=2, kv_num_heads=2, scale=0.7),
    _attention(_operands(), scale=0.3, softcap=1.5),
    # query heads that share a head of K and V
    _attention(_operands(heads=4), is_causal=1),
    _attention(_operands(heads=2, kv=1)),
    _attention(_operands(heads=4, rank=3), q_num_heads=4, kv_num_heads=2),
    # masks
    _attention([*_operands(), _BLIND]),
    _attention([*_operands(), _BLIND[:, :3]]),  # shorter than the keys
    _attention([*_operands(), _BLIND], is_causal=1),
    _attention([*_operands(), normal(3, 5)], opset=23),
    _attention([*_operands(), normal(2, 1, 1, 5)], is_causal=1),
    _attention([*_operands(heads=4), normal(4, 3, 3)]),
    _attention([*_operands(), _HIDDEN], wrt=[0, 1, 2]),
    _attention([*_operands(), None, None, None, ints(3, 5)]),
    _attention([*_operands(), None, None, None, ints(2, 4)], is_causal=1),
    # caches
    _attention([*_operands(), *_past()], opset=23, outputs=3),
    _attention([*_operands(), *_past()], is_causal=1, outputs=3),
    _attention([*_operands(rank=3), *_past()], outputs=3, q_num_heads=2, kv_num_heads=2),
    _attention([*_operands(heads=4), *_past()], outputs=3, of=[1, 2], wrt=[1, 2, 4, 5]),
    # the scores at each stage
    *(
        _attention([*_operands(), normal(3, 5)], outputs=4, qk_matmul_output_mode=m, softcap=c)
        for m, c in ((0, 0.0), (0, 2.0), (1, 2.0), (2, 2.0), (3, 0.0))
    ),
    _attention(_operands(), opset=25, left_window_size=1),
    _attention(_operands(), opset=25, left_window_size=0, right_window_size=1),
    # The operator is not defined for float64.
    _linear(2, 2, rule="linear"),
    _linear(4, 2, normal(2, 2, 3, 2), normal(2, 4, 2), rule="gated", scale=0.3),
    _linear(2, 1, None, None, normal(2, 4, 1), rule="delta"),
    _linear(2, 2, None, normal(2, 4, 6), normal(2, 4, 2), rule="gated_delta"),
    *(
        Sample("RotaryEmbedding", [x, *caches], attributes, opset=23, single=True, tolerance=3e-3)
        for x, caches, attributes in (
            (normal(2, 2, 3, 4), [normal(2, 3, 2), normal(2, 3, 2)], {}),
            (normal(2, 2, 3, 4), [normal(2, 3, 2), normal(2, 3, 2)], {"interleaved": 1}),
            (
                normal(1, 2, 3, 6),
                [normal(5, 2), normal(5, 2), _PLACES],
                {"rotary_embedding_dim": 4},
            ),
            (normal(1, 3, 8), [normal(5, 2), normal(5, 2), _PLACES], {"num_heads": 2}),
            (
                normal(1, 3, 8),
                [normal(5, 1), normal(5, 1), _PLACES],
                {"num_heads": 2, "interleaved": 1, "rotary_embedding_dim": 2},
            ),
        )
    ),
]
