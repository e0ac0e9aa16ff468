"""The nets of tools/nets.py as one writes them in PyTorch, on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Weights: TypeAlias = dict[str, Tensor]


def _conv(w: Weights, name: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    kernel = w[f"{name}.weight"]
    return F.conv2d(
        x, kernel, w[f"{name}.bias"], stride, padding=kernel.shape[-1] // 2, groups=groups
    )


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    # A weight of the ONNX net is [inputs, outputs]; its transpose is a view.
    return F.linear(x, w[f"{name}.weight"].t(), w.get(f"{name}.bias"))


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def _attention(w: Weights, name: str, x: Tensor, causal: bool = False) -> Tensor:
    n, tokens, width = x.shape
    q, k, v = (
        _linear(w, f"{name}.{part}", x).view(n, tokens, width // 64, 64).transpose(1, 2)
        for part in "qkv"
    )
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return _linear(w, f"{name}.out", y.transpose(1, 2).reshape(n, tokens, width))


def _feed_forward(w: Weights, name: str, x: Tensor) -> Tensor:
    return _linear(w, f"{name}.down", F.gelu(_linear(w, f"{name}.up", x)))


def _layers(w: Weights, stem: str = "layer") -> Iterator[str]:
    """The names of the layers or blocks, in order."""
    depth = 2 if any(k.startswith(f"{stem}1.0.") for k in w) else 1
    names = (".".join(k.split(".")[:depth]) for k in w if k.startswith(stem))
    return iter(dict.fromkeys(names))


def _resnet50_features(w: Weights, image: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(_conv(w, "stem", image, 2)), 3, 2, 1)
    for name in _layers(w):
        stride = 2 if name.endswith(".0") and name != "layer1.0" else 1
        y = F.relu(_conv(w, f"{name}.conv1", x))
        y = F.relu(_conv(w, f"{name}.conv2", y, stride))
        y = _conv(w, f"{name}.conv3", y)
        if f"{name}.downsample.weight" in w:
            x = _conv(w, f"{name}.downsample", x, stride)
        x = F.relu(x + y)
    return x


def _resnet50_head(w: Weights, x: Tensor) -> Tensor:
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def resnet50(w: Weights, image: Tensor) -> Tensor:
    return _resnet50_head(w, _resnet50_features(w, image))


def mobilenet_v2(w: Weights, image: Tensor) -> Tensor:
    x = F.relu6(_conv(w, "stem", image, 2))
    for name in _layers(w):
        stage, block = (int(part) for part in name.removeprefix("layer").split("."))
        stride = 2 if not block and stage in (1, 2, 3, 5) else 1
        y = F.relu6(_conv(w, f"{name}.expand", x)) if f"{name}.expand.weight" in w else x
        y = F.relu6(_conv(w, f"{name}.depthwise", y, stride, y.shape[1]))
        y = _conv(w, f"{name}.project", y)
        x = x + y if block else y
    x = F.relu6(_conv(w, "head", x)).mean((2, 3))
    return F.linear(x, w["fc.weight"], w["fc.bias"])


def _encoder_block(w: Weights, name: str, x: Tensor) -> Tensor:
    x = _norm(w, f"{name}.norm1", x + _attention(w, f"{name}.attention", x))
    return _norm(w, f"{name}.norm2", x + _feed_forward(w, name, x))


def _bert_features(w: Weights, embedded: Tensor) -> Tensor:
    x = _norm(w, "norm", embedded)
    for name in list(_layers(w))[:-1]:
        x = _encoder_block(w, name, x)
    return x.transpose(1, 2)  # channels first, as maps of classes have them


def _bert_head(w: Weights, features: Tensor) -> Tensor:
    x = _encoder_block(w, list(_layers(w))[-1], features.transpose(1, 2))
    return _linear(w, "classifier", x[:, 0]) if "classifier.weight" in w else x


def bert(w: Weights, embedded: Tensor) -> Tensor:
    return _bert_head(w, _bert_features(w, embedded))


def gpt2(w: Weights, ids: Tensor, targets: Tensor) -> Tensor:
    x = F.embedding(ids, w["wte"]) + w["wpe"]
    for name in _layers(w):
        x = x + _attention(w, f"{name}.attention", _norm(w, f"{name}.norm1", x), causal=True)
        x = x + _feed_forward(w, name, _norm(w, f"{name}.norm2", x))
    logits = _linear(w, "head", _norm(w, "norm", x))
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def unet(w: Weights, image: Tensor) -> Tensor:
    def double(name: str, x: Tensor) -> Tensor:
        return F.relu(_conv(w, f"{name}.1", F.relu(_conv(w, f"{name}.0", x))))

    x, skips = image, []
    for level in range(4):
        x = double(f"down{level}", x)
        if level < 3:
            skips.append(x)
            x = F.max_pool2d(x, 2)
    for level in range(3):
        x = F.conv_transpose2d(x, w[f"up{level}.weight"], w[f"up{level}.bias"], 2)
        x = double(f"join{level}", torch.cat([skips.pop(), x], 1))
    return torch.sigmoid(_conv(w, "out", x))


def lstm(w: Weights, x: Tensor) -> Tensor:
    parameters = [w[f"{part}{d}"] for d in range(2) for part in ("W", "R", "Wb", "Rb")]
    zero = x.new_zeros(2, x.shape[1], w["R0"].shape[1])
    # As in training, without dropout: cuDNN has no backward pass of an LSTM otherwise.
    y, _, _ = torch.lstm(x, (zero, zero), parameters, True, 1, 0.0, True, True, False)
    return _linear(w, "fc", y)


def mlp(w: Weights, x: Tensor) -> Tensor:
    x = F.relu(_linear(w, "fc1", x))
    return _linear(w, "fc3", F.relu(_linear(w, "fc2", x)))


TWINS: dict[str, Callable[..., Tensor]] = {
    "resnet50": resnet50,
    "mobilenet_v2": mobilenet_v2,
    "bert": bert,
    "gpt2": gpt2,
    "unet": unet,
    "lstm": lstm,
    "mlp": mlp,
}

# The nets whose layers are explained: what gives the layer, and what comes behind it.
_PARTS = {
    "resnet50": (_resnet50_features, _resnet50_head),
    "bert": (_bert_features, _bert_head),
}


class _Part(torch.nn.Module):
    """A part of a net, whose result captum can hook."""

    def __init__(self, part: Callable[..., Tensor], weights: Weights) -> None:
        super().__init__()
        self._part, self._weights = part, weights

    def forward(self, x: Tensor) -> Tensor:
        return self._part(self._weights, x)


def in_parts(net: str, weights: Weights) -> torch.nn.Sequential:
    """A net as two modules: what gives the layer that is explained, and what comes behind it."""
    return torch.nn.Sequential(*(_Part(part, weights) for part in _PARTS[net]))


def _gates(x: Tensor, order: list[int]) -> Tensor:
    return torch.cat([x.chunk(4)[k] for k in order])


def to_torch(w: Weights) -> Weights:
    """Weights of the ONNX net in PyTorch's layout: only the LSTM's differ."""
    if "lstm.W" not in w:
        return w
    own = {k: v for k, v in w.items() if not k.startswith("lstm.")}
    for d in range(2):
        biases = w["lstm.B"][d].chunk(2)
        both = {"W": w["lstm.W"][d], "R": w["lstm.R"][d], "Wb": biases[0], "Rb": biases[1]}
        # ONNX has the gates i, o, f, c; PyTorch i, f, c, o.
        own |= {f"{k}{d}": _gates(v, [0, 2, 3, 1]) for k, v in both.items()}
    return own


def to_onnx(g: Weights) -> Weights:
    """Gradients in PyTorch's layout in that of the ONNX net."""
    if "W0" not in g:
        return g
    back = {k: _gates(v, [0, 3, 1, 2]) if k[-1] in "01" else v for k, v in g.items()}
    lstm = {f"lstm.{k}": torch.stack([back.pop(f"{k}{d}") for d in range(2)]) for k in "WR"}
    biases = [torch.cat([back.pop(f"Wb{d}"), back.pop(f"Rb{d}")]) for d in range(2)]
    return back | lstm | {"lstm.B": torch.stack(biases)}
