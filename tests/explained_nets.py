"""Small nets of PyTorch and their ONNX files, of which explanations are compared.

Each is of a kind that people deploy: a ResNet, a MobileNet, a vision transformer, a transformer on
tokens, an LSTM, a segmentation. Their weights are drawn from a seed, so that
nothing is near zero and no two layers are alike, and BatchNormalization has the statistics of the
examples. Captum hooks modules: each activation is a module of its own.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]
CLASSES = 5
EXAMPLES = 3


@dataclass(frozen=True)
class ExplainedNet:
    """A net of PyTorch and its file.

    Attributes:
        module: In its evaluation mode.
        model: The file, with a symbolic batch.
        inputs: EXAMPLES examples by the inputs' names, in their order.
        tensors: For each module, by its name in `named_modules`, the name of the tensor that it
            gives out. A module that the exporter has merged into another has none.
        layer: The module that maps of classes are taken of.
        places: Rows and columns of `layer`'s tokens behind the class token, if it has tokens.
    """

    module: nn.Module
    model: onnx.ModelProto
    inputs: dict[str, Tensor]
    tensors: dict[str, str] = field(repr=False)
    layer: str = ""
    places: tuple[int, int] | None = None

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        """The examples as the file takes them."""
        return {name: x.numpy() for name, x in self.inputs.items()}

    def submodule(self, name: str = "") -> nn.Module:
        """A module by its name; `layer` by default."""
        return self.module.get_submodule(name or self.layer)

    def __hash__(self) -> int:
        return id(self)


# -- nets of images ------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))
        self.act2 = activation()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.act1 = activation()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = ResidualBlock(8, 8, 1, activation)
        self.layer2 = ResidualBlock(8, 16, 2, activation)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(image))))
        x = self.layer2(self.layer1(x))
        return self.fc(self.avgpool(x).flatten(1))


class InvertedResidual(nn.Module):
    """Widened, convolved channel by channel, narrowed again."""

    def __init__(self, channels: int, out: int, stride: int, activation: Activation) -> None:
        super().__init__()
        wide = 3 * channels
        self.expand = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), activation()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
        )
        self.project = nn.Sequential(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))
        self.skips = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skips else y


class MobileNet(nn.Module):
    def __init__(self, activation: Activation = nn.ReLU6) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.block1 = InvertedResidual(8, 8, 1, activation)
        self.block2 = InvertedResidual(8, 12, 2, activation)
        self.head = nn.Sequential(
            nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), activation()
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(24, 16), nn.Hardswish(), nn.Linear(16, CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(self.block2(self.block1(self.stem(image))))
        return self.classifier(self.avgpool(x).flatten(1))


class Segmentation(nn.Module):
    """From images to a logit for each class at each place."""

    def __init__(self, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), activation())
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), activation())
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(8, CLASSES, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.up(self.middle(self.down(image))))


# -- transformers and an LSTM --------------------------------------------------------------------


class LayerNorm(nn.LayerNorm):
    """One operator in the file, and plain arithmetic in PyTorch.

    The derivatives of `layer_norm` itself are wrong there from the third order on.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return super().forward(x)
        centred = x - x.mean(-1, keepdim=True)
        deviation = ((centred**2).mean(-1, keepdim=True) + self.eps).sqrt()
        return centred / deviation * self.weight + self.bias


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(-1)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, s, width = x.shape
        parts = self.qkv(x).reshape(n, s, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attention = self.softmax(q * self.scale @ k.transpose(-2, -1))
        return self.project((attention @ v).transpose(1, 2).reshape(n, s, width))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attention = Attention(width, heads=2)
        self.norm2 = LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), activation(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """A class token and 16 patches of an image, of which the class token is read out."""

    def __init__(self, activation: Activation = nn.GELU) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 17, 16))
        self.blocks = nn.Sequential(*(TransformerBlock(16, activation) for _ in range(2)))
        self.norm = LayerNorm(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.patches(image).flatten(2).transpose(1, 2)
        token = self.class_token.expand(image.shape[0], -1, -1)
        x = self.blocks(torch.cat([token, patches], 1) + self.positions)
        return self.head(self.norm(x)[:, 0])


class TokenTransformer(nn.Module):
    """From the numbers of words, any number of them, to a class."""

    def __init__(self, activation: Activation = nn.GELU) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.positions = nn.Parameter(torch.randn(1, 32, 16))
        self.norm = LayerNorm(16)
        self.blocks = nn.Sequential(*(TransformerBlock(16, activation) for _ in range(2)))
        self.pooler = nn.Sequential(nn.Linear(16, 16), nn.Tanh())
        self.head = nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embedding(ids) + self.positions[:, : ids.shape[1]])
        return self.head(self.pooler(self.blocks(x)[:, 0]))


class Lstm(nn.Module):
    """Reads a signal in both directions."""

    def __init__(self, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.hidden = nn.Sequential(nn.Linear(16, 12), activation())
        self.head = nn.Linear(12, CLASSES)

    def forward(self, signal: Tensor) -> Tensor:
        states, _ = self.lstm(signal)
        return self.head(self.hidden(states[:, -1] + states[:, 0]))


class Probabilities(nn.Module):
    """A net that ends in a Softmax, as many files do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.softmax = nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.softmax(self.net(x))


# -- their files ---------------------------------------------------------------------------------


class _Kind(NamedTuple):
    make: Callable[..., nn.Module]
    input: str
    shape: tuple[int, ...]
    layer: str
    symbolic: dict[int, str] | None = None  # axes beside the batch
    places: tuple[int, int] | None = None


_SEQUENCE, _PLANE = {1: "S"}, {2: "H", 3: "W"}
_KINDS = {
    "resnet": _Kind(ResNet, "image", (EXAMPLES, 3, 32, 32), "layer2"),
    "mobilenet": _Kind(MobileNet, "image", (EXAMPLES, 3, 16, 16), "head"),
    "vit": _Kind(
        VisionTransformer, "image", (EXAMPLES, 3, 16, 16), "blocks.1.norm1", places=(4, 4)
    ),
    "tokens": _Kind(TokenTransformer, "ids", (EXAMPLES, 7), "embedding", _SEQUENCE),
    "lstm": _Kind(Lstm, "signal", (EXAMPLES, 9, 6), "lstm", _SEQUENCE),
    "segmentation": _Kind(Segmentation, "image", (EXAMPLES, 3, 16, 16), "middle", _PLANE),
}
NETS = tuple(_KINDS)


@functools.cache
def explained(
    kind: str,
    activation: Activation | None = None,
    *,
    probabilities: bool = False,
    merged: bool = False,
    opset: int = 17,
) -> ExplainedNet:
    """One of the NETS with its file.

    Args:
        kind: Its name in NETS.
        activation: Of the layers where the net has its usual one, such as `nn.Softplus` for a net
            without kinks.
        probabilities: Put a Softmax at the end. The modules are those of `net` then.
        merged: Let the exporter merge BatchNormalization into the convolutions, as it does by
            default.
        opset: Of the file: from 20 on GELU is one operator.
    """
    of = _KINDS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = of.make() if activation is None else of.make(activation)
        _draw(module)
        inputs = {of.input: _input(of)}
        with torch.no_grad():
            module.train()(*inputs.values())  # takes the statistics of BatchNormalization
    layer = of.layer
    if probabilities:
        module, layer = Probabilities(module), f"net.{layer}"
    model = _export(module.eval(), inputs, {0: "N"} | (of.symbolic or {}), merged, opset)
    return ExplainedNet(module, model, inputs, _tensors(module, model, inputs), layer, of.places)


def _input(of: _Kind) -> Tensor:
    if of.input == "ids":
        return torch.randint(20, of.shape)
    noise = torch.randn(of.shape)
    if of.input == "image":  # with large parts too, which pooling does not average away
        parts = torch.randn(*of.shape[:2], 3, 3)
        return 0.3 * noise + nn.functional.interpolate(parts, of.shape[2:], mode="bilinear")
    return noise


@torch.no_grad()
def _draw(module: nn.Module) -> None:
    """Draw weights that keep the size of values."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0  # the next run's statistics, whole
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
            if part.bias is not None:
                nn.init.normal_(part.bias, 0, 0.3)
        if isinstance(part, nn.LSTM):
            for weight in part.parameters():
                nn.init.normal_(weight, 0, 0.5)
    *_, last = (part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear))
    last.weight *= 2  # makes of the logits chances that are neither equal nor certain


def _export(
    module: nn.Module, inputs: dict[str, Tensor], symbolic: dict[int, str], merged: bool, opset: int
) -> onnx.ModelProto:
    mode = torch.onnx.TrainingMode.EVAL if merged else torch.onnx.TrainingMode.PRESERVE
    out = {axis: name for axis, name in symbolic.items() if axis != 1}  # which has the classes
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is the old exporter, which keeps the names
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            file,
            dynamo=False,
            training=mode,
            input_names=list(inputs),
            output_names=["probabilities" if isinstance(module, Probabilities) else "logits"],
            dynamic_axes={**dict.fromkeys(inputs, symbolic), "logits": out, "probabilities": out},
            opset_version=opset,
        )
    return onnx.load_from_string(file.getvalue())


def _tensors(
    module: nn.Module, model: onnx.ModelProto, inputs: dict[str, Tensor]
) -> dict[str, str]:
    """The tensor that each module gives out, found by its values."""
    given: dict[str, np.ndarray] = {}

    def keep(name: str, y: Tensor | tuple[Tensor, ...]) -> None:
        given[name] = (y if isinstance(y, Tensor) else y[0]).numpy()

    hooks = [
        part.register_forward_hook(lambda _, __, y, name=name: keep(name, y))
        for name, part in module.named_modules()
        if name
    ]
    with torch.no_grad():
        module(*inputs.values())
    for hook in hooks:
        hook.remove()
    values = every_value(model, {name: x.numpy() for name, x in inputs.items()})
    found = {}
    for name, y in given.items():
        same = (
            n
            for n, value in values.items()
            if value.shape == y.shape and np.allclose(value, y, rtol=1e-4, atol=1e-5)
        )
        if tensor := next(same, None):
            found[name] = tensor
    return found


def every_value(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each node of a file gives out, by name, in the graph's order."""
    names = [name for node in model.graph.node for name in node.output if name]
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    del open_model.graph.output[:]
    open_model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(open_model.SerializeToString(), options)
    return dict(zip(names, session.run(None, feeds), strict=True))
