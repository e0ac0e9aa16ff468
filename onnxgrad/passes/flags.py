"""Checks attributes that are 0 or 1 by the standard: runtimes differ on other numbers.

onnxruntime takes another number for true in some attributes and for false in others. So a gradient
could be that of another function than the one that runs.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxgrad.graph.errors import ModelError

# In these domains an integer of such a name is always a flag.
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview", "com.microsoft", "com.microsoft.nchwc"}
_STANDARD = """
    align_corners allowzero antialias batch_axis broadcast ceil_mode center_point_box
    count_include_pad detect_negative detect_positive exclude_outside exclusive fmod input_forget
    interleaved inverse is_case_sensitive is_causal is_test keepdims largest layout
    linear_before_reset new_axis noop_with_empty_axes onesided output_sequence periodic reverse
    saturate select_last_index sorted spatial storage_order time_axis training_mode transA transB
    upper
"""
_ML = "multi_class one_class zeros"
_MICROSOFT = """
    activation causal channels_last do_rotary is_packed_batching mrope_layout
    past_present_share_buffer rotary_interleaved smooth_softmax transBatchA transBatchB
    unidirectional
"""
FLAGS = frozenset(f"{_STANDARD} {_ML} {_MICROSOFT}".split())


def require_flags(nodes: Iterable[ir.Node]) -> None:
    """Check that every flag of the nodes is 0 or 1.

    Raises:
        ModelError: A flag is neither; the message names the node, the attribute and its value.
    """
    for node in nodes:
        if node.domain not in _DOMAINS:
            continue
        for name, attribute in node.attributes.items():
            integer = attribute.type == ir.AttributeType.INT and not attribute.is_ref()
            if integer and name in FLAGS and attribute.value not in (0, 1):
                operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                raise ModelError(
                    f"operator {operator}, node {node.name!r}: the attribute {name} is 0 or 1, "
                    f"not {attribute.value}, which runtimes take for either. Write 0 or 1."
                )
