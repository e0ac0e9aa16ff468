"""What the benchmark of training compares: ways to take a training step."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from contenders import Contender, with_saved_outputs, without_flatten

# How many losses are compared, and the rate.
STEPS, RATE = 3, 1e-4


class Stepper(Contender):
    """A way to train a net with AdamW and the mean cross-entropy of its output; a call is a step.

    The labels are under "labels" among the feeds.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        super().__init__(task)
        self.losses: list[float] = []
        self.step: Callable[[], Any]

    @abstractmethod
    def start(self) -> Callable[[], Any]:
        """Everything before the first step; returns the step, which gives its loss."""

    def open(self) -> Callable[[], Mapping[str, Any]]:
        self.step = self.start()

        def call() -> Mapping[str, Any]:
            loss = float(self.step())
            if len(self.losses) < STEPS:
                self.losses.append(loss)
            return {}

        return call

    def gradients(self, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The losses of the first steps."""
        while len(self.losses) < STEPS:
            self.losses.append(float(self.step()))
        return {"losses": np.array(self.losses)}

    def initial(self) -> dict[str, np.ndarray]:
        """The weights."""
        return dict(np.load(self.task["weights"]))

    def bound(self, state: Mapping[str, str], moments: set[str]) -> Callable[[], None]:
        """A run of the file with all inputs and outputs at fixed places, which changes the state.

        Args:
            state: By input, the output that takes its place.
            moments: Those of them that are overwritten. The others have two places.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.task["threads"], 3
        options.enable_mem_pattern = options.enable_mem_reuse = False
        cpu = ["CPUExecutionProvider"]
        session = ort.InferenceSession(self.task["file"], options, providers=cpu)
        known = self.feeds | self.initial() | {"learning_rate": np.array(RATE, np.float32)}
        place = ort.OrtValue.ortvalue_from_numpy
        dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64}

        def made(port: Any) -> Any:
            return place(np.zeros(port.shape, dtypes[port.type]))

        now = {p.name: place(known[p.name]) if p.name in known else made(p)
               for p in session.get_inputs()}  # fmt: skip
        kept = {output: now[name] for name, output in state.items() if name in moments}
        outputs = {p.name: kept.get(p.name) or made(p) for p in session.get_outputs()}
        swapped = [(name, output) for name, output in state.items() if name not in moments]
        bindings = []
        for _ in range(2):
            binding = session.io_binding()
            for name, value in now.items():
                binding.bind_ortvalue_input(name, value)
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, value)
            bindings.append(binding)
            for name, output in swapped:
                now[name], outputs[output] = outputs[output], now[name]
        self.outputs = outputs  # those without a successor have one place

        def run() -> None:
            session.run_with_iobinding(bindings[0])
            bindings.reverse()

        return run


class OnnxGradStep(Stepper):
    """This package's step on the stock onnxruntime."""

    label, package = "onnxgrad", "onnxruntime"

    def build(self) -> onnx.ModelProto:
        from onnxgrad import losses, train

        loss = losses.cross_entropy(self.task["output"])
        return train.step(self.task["model"], loss, train.AdamW(), self.task["wrt"])

    def start(self) -> Callable[[], Any]:
        model = onnx.load(self.task["file"])
        properties = {
            p.key: json.loads(p.value) for p in model.metadata_props if "onnxgrad" in p.key
        }
        moments = set(properties["onnxgrad.initial"])
        run = self.bound(properties["onnxgrad.state"], moments)

        def step() -> Any:
            run()
            return self.outputs["loss"].numpy()

        return step


class Gradient(OnnxGradStep):
    """The gradient of that loss alone, of weights that are inputs."""

    label = "gradient"

    def build(self) -> onnx.ModelProto:
        import onnxgrad

        model, wrt = onnx.load(self.task["model"]), self.task["wrt"]
        graph = model.graph
        for tensor in [t for t in graph.initializer if t.name in wrt]:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
            graph.initializer.remove(tensor)
        loss = onnxgrad.losses.cross_entropy(self.task["output"])
        return onnxgrad.gradient(model, wrt, of=loss, forward=False)

    def open(self) -> Callable[[], Mapping[str, Any]]:
        run = self.bound({}, set())
        return lambda: run() or {}

    def gradients(self, results: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {}


class TorchStep(Stepper):
    """PyTorch's autograd on a twin of the net, and its fused AdamW."""

    label, package = "torch", "torch"

    def compiled(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        return loss

    def start(self) -> Callable[[], Any]:
        import torch
        import twins

        torch.set_num_threads(self.task["threads"])
        weights = twins.to_torch({k: torch.from_numpy(v) for k, v in self.initial().items()})
        for weight in weights.values():
            weight.requires_grad_()
        feeds = {k: torch.from_numpy(v) for k, v in self.feeds.items()}
        labels = feeds.pop("labels")
        twin = twins.TWINS[self.task["net"]]

        def loss_of(weights: Any, labels: Any, *inputs: Any) -> Any:
            return torch.nn.functional.cross_entropy(twin(weights, *inputs), labels)

        loss_of = self.compiled(loss_of)
        optimizer = torch.optim.AdamW(weights.values(), lr=RATE, fused=True)

        def step() -> Any:
            loss = loss_of(weights, labels, *feeds.values())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return step


class CompiledStep(TorchStep):
    """torch.compile on that twin and its loss."""

    label = "torch.compile"

    def compiled(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        return torch.compile(loss, dynamic=False)


class TrainingStep(Stepper):
    """The artifacts of onnxruntime-training, run by its own runtime."""

    label, package, environment = "onnxruntime-training", "onnxruntime", ".venv-training"

    @property
    def folder(self) -> Path:
        return Path(self.task["file"]).with_suffix(".artifacts")

    def build(self) -> onnx.ModelProto:
        from onnxruntime.training import artifacts, onnxblock

        model = onnx.load(self.task["model"])
        with_saved_outputs(model.graph)
        self.folder.mkdir(exist_ok=True)
        artifacts.generate_artifacts(
            model,
            requires_grad=self.task["wrt"],
            loss=artifacts.LossType.CrossEntropyLoss,
            optimizer=onnxblock.optim.AdamW(eps=1e-8, weight_decay=0.01),
            artifact_directory=str(self.folder),
        )
        path = self.folder / "optimizer_model.onnx"
        optimizer = onnx.load(path)
        optimizer.ir_version = 10  # a newer onnx has written its own, which that runtime refuses
        onnx.save(optimizer, path)
        return onnx.load(self.folder / "training_model.onnx")

    def start(self) -> Callable[[], Any]:
        import onnxruntime as ort
        from onnxruntime.training.api import CheckpointState, Module, Optimizer

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = self.task["threads"], 3
        state = CheckpointState.load_checkpoint(self.folder / "checkpoint")
        # It asks for the model of an evaluation, which is not run.
        names = [str(self.folder / f"{name}_model.onnx") for name in ("training", "eval")]
        module = Module(names[0], state, names[1], session_options=options)
        optimizer = Optimizer(str(self.folder / "optimizer_model.onnx"), module)
        optimizer.set_learning_rate(RATE)
        module.train()
        *inputs, labels = self.feeds.values()

        def step() -> Any:
            loss = module(*inputs, labels)
            optimizer.step()
            module.lazy_reset_grad()
            return loss

        return step


class OnnxSimStep(Stepper):
    """onnxsim's training loop, on the stock onnxruntime.

    It knows no operator for cross-entropy, so it gets that of a one-hot label, and no Flatten.
    """

    label, package, environment = "onnxsim", "onnxsim", ".venv-onnxsim"
    opset: ClassVar[int] = 17  # that of its steps

    def build(self) -> onnx.ModelProto:
        model = onnx.load(self.task["model"])
        graph, output = model.graph, self.task["output"]
        shape = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
        node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
        without_flatten(graph)
        axes = np.array([1])
        graph.initializer.append(onnx.numpy_helper.from_array(axes, "bench_axes"))
        graph.input.append(value("bench_one_hot", onnx.TensorProto.FLOAT, shape))
        graph.node.extend(
            [
                node("Softmax", [output], ["bench_p"], axis=-1),
                node("Log", ["bench_p"], ["bench_log"]),
                node("Mul", ["bench_log", "bench_one_hot"], ["bench_product"]),
                node("ReduceSum", ["bench_product", "bench_axes"], ["bench_sum"], keepdims=0),
                node("Neg", ["bench_sum"], ["bench_losses"]),
                node("ReduceMean", ["bench_losses"], ["bench_loss"], keepdims=0),
            ]
        )
        del graph.output[:]
        graph.output.append(value("bench_loss", onnx.TensorProto.FLOAT, []))
        model = onnx.version_converter.convert_version(model, self.opset)
        model.ir_version = 8
        self.loop(model).step_graph  # noqa: B018  it raises here where it knows no gradient
        return model

    def loop(self, model: onnx.ModelProto) -> Any:
        import onnxsim

        return onnxsim.compile_training_loop(model, "bench_loss", self.task["wrt"])

    def start(self) -> Callable[[], Any]:
        import onnxruntime

        # Its loop has no option for the number of threads.
        plain = onnxruntime.SessionOptions

        def options() -> Any:
            made = plain()
            made.intra_op_num_threads, made.log_severity_level = self.task["threads"], 3
            return made

        onnxruntime.SessionOptions = options
        model = onnx.load(self.task["file"])
        feeds = dict(self.feeds)
        classes = next(v for v in model.graph.input if v.name == "bench_one_hot")
        width = classes.type.tensor_type.shape.dim[-1].dim_value
        feeds["bench_one_hot"] = np.eye(width, dtype=np.float32)[feeds.pop("labels")]
        loop = self.loop(model)
        return lambda: loop(feeds, lr=RATE)


STEPPERS: dict[str, type[Contender]] = {
    c.label: c for c in (OnnxGradStep, Gradient, TorchStep, CompiledStep, TrainingStep, OnnxSimStep)
}
