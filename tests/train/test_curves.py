"""Losses over 50 steps as those of PyTorch, on nets that it has exported."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad as og
from onnxgrad import train
from tests.train.running import Loop

torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from tests.explained_nets import explained  # noqa: E402

STEPS, BATCH = 50, 4


class Unet(nn.Module):
    """Down, and up again by a ConvTranspose and a Resize."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(
            nn.Conv2d(3, 6, 3, 1, 1, bias=False), nn.BatchNorm2d(6), nn.Tanh()
        )
        self.down2 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.Tanh())
        self.down3 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.Tanh())
        self.up1 = nn.ConvTranspose2d(8, 8, 2, 2)
        self.up2 = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(14, 4, 1)

    def forward(self, image: Any) -> Any:
        a = self.down1(image)
        b = self.down2(a)
        c = self.up1(self.down3(b))
        return self.head(torch.cat([self.up2(b + c), a], 1))


def exported(module: Any, inputs: dict[str, Any], mode: Any) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            copy.deepcopy(module).eval(),
            tuple(inputs.values()),
            file,
            dynamo=False,
            training=mode,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={name: {0: "N"} for name in (*inputs, "logits")},
            opset_version=17,
        )
    return onnx.load_from_string(file.getvalue())


def smooth(kind: str) -> Callable[[], Any]:
    return lambda: copy.deepcopy(explained(kind, nn.Softplus).module)


def mlp() -> Any:
    return nn.Sequential(
        nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def drawn(*shape: int) -> Callable[[Any], Any]:
    return lambda generator: torch.randn(shape, generator=generator)


NETS: dict[str, tuple[Callable[[], Any], str, Callable[[Any], Any], tuple[int, ...]]] = {
    "mlp": (mlp, "x", drawn(BATCH, 5), ()),
    "resnet": (smooth("resnet"), "image", drawn(BATCH, 3, 8, 8), ()),
    "unet": (Unet, "image", drawn(BATCH, 3, 8, 8), (8, 8)),
    "lstm": (smooth("lstm"), "signal", drawn(BATCH, 5, 6), ()),
    "tokens": (
        smooth("tokens"),
        "ids",
        lambda generator: torch.randint(20, (BATCH, 5), generator=generator),
        (),
    ),
}
CASES = [(net, "frozen") for net in NETS] + [("resnet", "train"), ("unet", "train")]
OPTIMIZERS = {
    "mlp": (train.SGD(momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), 0.05),
    "adamw": (train.AdamW(), lambda p: torch.optim.AdamW(p, lr=5e-3), 5e-3),
}


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-4), ("float64", 1e-6)])
@pytest.mark.parametrize("name, batch_norm", CASES, ids=str)
def test_losses_as_torch(name: str, batch_norm: str, dtype: str, tolerance: float) -> None:
    make, input_name, draw, places = NETS[name]
    torch.manual_seed(3)
    kind = getattr(torch, dtype)
    module = make().to(kind)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.1
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.2)
            nn.init.uniform_(part.weight, 0.8, 1.2)
    generator = torch.Generator().manual_seed(1)

    def data() -> tuple[Any, Any]:
        x = draw(generator)
        x = x.to(kind) if x.is_floating_point() else x
        return x, torch.randint(4, (BATCH, *places), generator=generator)

    model = exported(module, {input_name: data()[0]}, torch.onnx.TrainingMode.PRESERVE)
    mine, make_theirs, lr = OPTIMIZERS.get(name, OPTIMIZERS["adamw"])
    clip = 0.5 if name == "unet" else None
    step = train.step(
        model, og.losses.cross_entropy(), mine, batch_norm=batch_norm, clip_grad_norm=clip
    )
    loop = Loop(step, model)
    lr = float(np.float32(lr))
    module.train()
    for part in module.modules():
        if batch_norm == "frozen" and isinstance(part, nn.BatchNorm2d):
            part.eval()
    optimizer = make_theirs(module.parameters())
    for group in optimizer.param_groups:
        group["lr"] = lr
    found, expected = [], []
    batches = [data() for _ in range(2)]
    for k in range(STEPS):
        x, labels = batches[k % len(batches)]
        found.append(loop(lr, **{input_name: x.numpy(), "labels": labels.numpy()})["loss"])
        optimizer.zero_grad()
        loss = F.cross_entropy(module(x), labels)
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        expected.append(loss.item())
    assert np.mean(expected[-2:]) < 0.9 * np.mean(expected[:2])  # it learns
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    if dtype == "float64":  # in float32 Adam makes noise of gradients that are zero
        for key, value in module.state_dict().items():  # the running statistics too
            if key in loop.state:
                np.testing.assert_allclose(loop.state[key], value, rtol=1e-4, atol=1e-6)
    statistics = [key for key in loop.state if "running" in key]
    assert bool(statistics) == (batch_norm == "train")
