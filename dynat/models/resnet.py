"""ResNet-18 for small images (He et al. 2016, arXiv 1512.03385): 3x3 first convolution, no pooling.

Two networks with the same 11.17 M parameters, told apart by the strides of the four layers:
`resnet18` (1,2,2,2) is what most of the literature means, 0.56 G multiply-adds on a 32x32 image;
`resnet18_heavy` (1,1,2,2) keeps the second layer at full size, 1.76 G, and is the guide of LBGAT and DYNAT.
Parameter names are those of the TRADES and AWP releases. The mean over all positions takes any image size.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_LAYER = 2


class BasicBlock(nn.Module):
    """relu(x + BN(conv(relu(BN(conv(x)))))), x projected where its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    def __init__(self, *, strides: tuple[int, int, int, int], classes: int, channels: int) -> None:
        super().__init__()
        first, last = WIDTHS[0], WIDTHS[-1]
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _layer(first, WIDTHS[0], strides[0])
        self.layer2 = _layer(WIDTHS[0], WIDTHS[1], strides[1])
        self.layer3 = _layer(WIDTHS[1], WIDTHS[2], strides[2])
        self.layer4 = _layer(WIDTHS[2], WIDTHS[3], strides[3])
        self.linear = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


def _layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(BLOCKS_PER_LAYER - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def resnet18(*, classes: int, channels: int) -> ResNet:
    return ResNet(strides=(1, 2, 2, 2), classes=classes, channels=channels)


def resnet18_heavy(*, classes: int, channels: int) -> ResNet:
    return ResNet(strides=(1, 1, 2, 2), classes=classes, channels=channels)
