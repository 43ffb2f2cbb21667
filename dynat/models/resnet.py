"""ResNet-18 and ResNet-50 for small images (He et al. 2016, arXiv 1512.03385): 3x3 first convolution, no pooling.

Two networks have the same 11.17 M parameters, told apart by the strides of the four layers:
`resnet18` (1,2,2,2) is what most of the literature means, 0.56 G multiply-adds on a 32x32 image;
`resnet18_heavy` (1,1,2,2) keeps the second layer at full size, 1.76 G, and is the guide of LBGAT and DYNAT.
`resnet50` has 23.5 M parameters and 1.30 G multiply-adds; the stride is in the 3x3 convolution, as in torchvision.
Parameter names are those of the TRADES and AWP releases, and of RobustBench. The mean over all positions takes any
image size. With the first convolution of ImageNet (7x7, stride 2, and pooling) it is `torchvision/resnet50`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """x itself, or its projection where the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """relu(x + BN(conv(relu(BN(conv(x)))))), x projected where its shape changes."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """The same with three convolutions: 1x1 to `width` channels, 3x3, and 1x1 to four times as many."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = functional.relu(self.bn2(self.conv2(out)), inplace=True)
        return functional.relu(self.bn3(self.conv3(out)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """`blocks` and `strides`: of each of the four layers."""

    def __init__(
        self,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        strides: tuple[int, int, int, int],
        classes: int,
        channels: int,
    ) -> None:
        super().__init__()
        first, *ends = WIDTHS[0], *(block.expansion * width for width in WIDTHS)
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _layer(block, blocks[0], first, WIDTHS[0], strides[0])
        self.layer2 = _layer(block, blocks[1], ends[0], WIDTHS[1], strides[1])
        self.layer3 = _layer(block, blocks[2], ends[1], WIDTHS[2], strides[2])
        self.layer4 = _layer(block, blocks[3], ends[2], WIDTHS[3], strides[3])
        self.linear = nn.Linear(ends[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        # Channels last, so that the gradient is too: ReLU is slow where it differs.
        logits: Tensor = self.linear(out.permute(0, 2, 3, 1).mean(dim=(1, 2)))
        return logits


def _layer(
    block: type[BasicBlock] | type[Bottleneck], count: int, inputs: int, width: int, stride: int
) -> nn.Sequential:
    rest = [block(block.expansion * width, width, 1) for _ in range(count - 1)]
    return nn.Sequential(block(inputs, width, stride), *rest)


def resnet18(*, classes: int, channels: int) -> ResNet:
    return ResNet(block=BasicBlock, blocks=(2, 2, 2, 2), strides=(1, 2, 2, 2), classes=classes, channels=channels)


def resnet18_heavy(*, classes: int, channels: int) -> ResNet:
    return ResNet(block=BasicBlock, blocks=(2, 2, 2, 2), strides=(1, 1, 2, 2), classes=classes, channels=channels)


def resnet50(*, classes: int, channels: int) -> ResNet:
    return ResNet(block=Bottleneck, blocks=(3, 4, 6, 3), strides=(1, 2, 2, 2), classes=classes, channels=channels)
