"""A model of the shape of ResNet-18, exported from torch as it does today: an ONNX graph, and its weights beside it.

    pip install torch==2.13.0 onnx onnxscript
    python examples/resnet18/export.py resnet18.onnx

writes resnet18.onnx and resnet18.onnx.data. The layers are those of He et al., "Deep Residual Learning for Image
Recognition" (2015), table 1, column "18-layer"; the weights come from a seed, so that nothing is downloaded, and mean
nothing. A model that was trained, such as torchvision's, is exported by the same call.

With --graph FILE the graph is written there once more without what differs between machines (the exporter's notes on
where in which file each node came from). That is how src/blindai/demo/cloud/resnet18.onnx was made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
import torch
from torch import nn

SEED = 18
CLASSES = 1000

# Channels of the four stages, and the stride with which each begins.
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
BLOCKS_PER_STAGE = 2


class Block(nn.Module):
    """Two convolutions, and a way past them."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.past: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.past = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.past(x))


class ResNet18(nn.Module):
    """FP32 images [n, 3, 224, 224] to FP32 scores [n, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks: list[nn.Module] = []
        channels_in = 64
        for channels, stride in STAGES:
            for number in range(BLOCKS_PER_STAGE):
                blocks.append(Block(channels_in, channels, stride if number == 0 else 1))
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels_in, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.blocks(self.stem(image)).mean(dim=(2, 3)))


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without notes for people; what it computes, and where its weights lie, is untouched."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]  # shapes between the nodes, which whoever loads the model works out by itself
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="where the model goes; its weights go beside it")
    parser.add_argument("--graph", type=Path, help="where the graph goes without notes")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    model = ResNet18().eval()
    torch.onnx.export(
        model, (torch.zeros(1, 3, 224, 224),), options.model, input_names=["image"], output_names=["scores"]
    )
    if options.graph is not None:
        graph = onnx.load(options.model, load_external_data=False)
        onnx.save(stripped(graph), options.graph)


if __name__ == "__main__":
    main()
