"""Networks of the shapes of well-known ones, with random weights: what they answer means nothing, what they cost does.

Sources: He et al. 2015 (ResNet); Schroff et al. 2015 and Szegedy et al. 2016 (FaceNet, on Inception-ResNet); Baevski et
al. 2020 (wav2vec 2.0, base).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Network:
    """A graph that grows node by node; each method gives the name of its output."""

    def __init__(self, seed: int = 7) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: NDArray[Any]) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        """Random, of a size that lets numbers neither vanish nor explode over many layers."""
        inputs = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        scaled = self._random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(inputs))
        return self.constant(scaled.astype(np.float32))

    def conv(
        self, source: str, inputs: int, outputs: int, kernel: tuple[int, ...], stride: int = 1, *, relu: bool = True
    ) -> str:
        made = self.add(
            "Conv",
            source,
            self.weight(outputs, inputs, *kernel),
            self.constant(np.zeros(outputs, np.float32)),
            strides=[stride] * len(kernel),
            pads=[size // 2 for size in kernel] * 2,
        )
        return self.add("Relu", made) if relu else made

    def linear(self, source: str, inputs: int, outputs: int) -> str:
        product = self.add("MatMul", source, self.weight(inputs, outputs))
        return self.add("Add", product, self.constant(np.zeros(outputs, np.float32)))

    def norm(self, source: str, size: int) -> str:
        ones, zeros = self.constant(np.ones(size, np.float32)), self.constant(np.zeros(size, np.float32))
        return self.add("LayerNormalization", source, ones, zeros, axis=-1)

    def gelu(self, source: str) -> str:
        scaled = self.add("Mul", source, self.constant(np.array(np.sqrt(0.5), np.float32)))
        gate = self.add("Add", self.add("Erf", scaled), self.constant(np.ones((), np.float32)))
        return self.add("Mul", self.add("Mul", source, gate), self.constant(np.array(0.5, np.float32)))

    def encoder(self, source: str, width: int, heads: int, inner: int) -> str:
        """One layer of a transformer that reads [1, length, width]."""
        split = self.constant(np.array([1, -1, heads, width // heads]))
        join = self.constant(np.array([1, -1, width]))
        parts = []
        for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
            shaped = self.add("Reshape", self.linear(source, width, width), split)
            parts.append(self.add("Transpose", shaped, perm=order))
        scale = self.constant(np.array((width // heads) ** -0.5, np.float32))
        scores = self.add("Mul", self.add("MatMul", parts[0], parts[1]), scale)
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=-1), parts[2])
        joined = self.add("Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), join)
        first = self.norm(self.add("Add", source, self.linear(joined, width, width)), width)
        wide = self.gelu(self.linear(first, width, inner))
        return self.norm(self.add("Add", first, self.linear(wide, inner, width)), width)

    def model(self, output: str, name: str, kind: int, shape: tuple[int, ...]) -> bytes:
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info(name, kind, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self._weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        content: bytes = onnx.shape_inference.infer_shapes(made).SerializeToString()
        return content


def distilbert(length: int, *, layers: int = 6) -> bytes:
    """768 wide, 12 heads; 1000 words instead of 30522, which cost the same to look up."""
    net = Network()
    words = net.add("Gather", net.weight(1000, 768), "x")
    hidden = net.norm(net.add("Add", words, net.weight(length, 768)), 768)
    for _ in range(layers):
        hidden = net.encoder(hidden, 768, 12, 3072)
    return net.model(net.linear(hidden, 768, 2), "x", TensorProto.INT64, (1, length))


def resnet(blocks: tuple[int, ...], *, bottleneck: bool) -> bytes:
    """(2, 2, 2, 2) without bottlenecks is ResNet-18, (3, 4, 6, 3) with them ResNet-50."""
    net = Network()
    hidden = net.add("MaxPool", net.conv("x", 3, 64, (7, 7), 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for stage, count in enumerate(blocks):
        inner = 64 << stage
        outer = inner * 4 if bottleneck else inner
        for block in range(count):
            stride = 2 if stage and not block else 1
            if bottleneck:
                made = net.conv(hidden, width, inner, (1, 1))
                made = net.conv(made, inner, inner, (3, 3), stride)
                made = net.conv(made, inner, outer, (1, 1), relu=False)
            else:
                made = net.conv(hidden, width, inner, (3, 3), stride)
                made = net.conv(made, inner, outer, (3, 3), relu=False)
            skip = (
                hidden if width == outer and stride == 1 else net.conv(hidden, width, outer, (1, 1), stride, relu=False)
            )
            hidden = net.add("Relu", net.add("Add", made, skip))
            width = outer
    flat = net.add("Flatten", net.add("GlobalAveragePool", hidden))
    return net.model(net.linear(flat, width, 1000), "x", TensorProto.FLOAT, (1, 3, 224, 224))


def facenet(*, repeats: tuple[int, int, int] = (5, 10, 5)) -> bytes:
    """Residual blocks with branches of 1x1, 3x3 and 1x7 with 7x1, at three resolutions, for faces of 160x160."""
    net = Network()
    hidden = net.conv("x", 3, 32, (3, 3), 2)
    hidden = net.conv(hidden, 32, 64, (3, 3))
    hidden = net.add("MaxPool", hidden, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    hidden = net.conv(net.conv(hidden, 64, 80, (1, 1)), 80, 192, (3, 3))
    hidden = net.conv(hidden, 192, 256, (3, 3), 2)
    width = 256
    for stage, (count, inner) in enumerate(zip(repeats, (32, 128, 192), strict=True)):
        for _ in range(count):
            branches = [net.conv(hidden, width, inner, (1, 1))]
            second = net.conv(hidden, width, inner, (1, 1))
            if stage == 0:
                branches.append(net.conv(second, inner, inner, (3, 3)))
            else:
                size = 7 if stage == 1 else 3
                branches.append(net.conv(net.conv(second, inner, inner, (1, size)), inner, inner, (size, 1)))
            joined = net.add("Concat", *branches, axis=1)
            hidden = net.add("Relu", net.add("Add", hidden, net.conv(joined, 2 * inner, width, (1, 1), relu=False)))
        if stage < 2:
            hidden = net.conv(hidden, width, (896, 1792)[stage], (3, 3), 2)
            width = (896, 1792)[stage]
    flat = net.add("Flatten", net.add("GlobalAveragePool", hidden))
    return net.model(net.linear(flat, width, 512), "x", TensorProto.FLOAT, (1, 3, 160, 160))


def wav2vec2(samples: int, *, layers: int = 12) -> bytes:
    """Seven convolutions over the samples, then an encoder of 768, as in the base model."""
    net = Network()
    hidden, width = "x", 1
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        hidden = net.gelu(net.conv(hidden, width, 512, (kernel,), stride, relu=False))
        width = 512
    hidden = net.linear(net.norm(net.add("Transpose", hidden, perm=[0, 2, 1]), 512), 512, 768)
    for _ in range(layers):
        hidden = net.encoder(hidden, 768, 12, 3072)
    return net.model(net.linear(hidden, 768, 32), "x", TensorProto.FLOAT, (1, 1, samples))
