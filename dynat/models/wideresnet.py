"""WideResNet (Zagoruyko & Komodakis 2016, arXiv 1605.07146): pre-activation residual blocks, few and wide.

Parameter names are those of the TRADES release, on which LBGAT and DYNAT build. Two differences: the second
copy of the first group that their constructor makes and no forward uses is not made here (2.1 M dead weights
at WRN-34-10), and there is no dropout, which all of them set to 0. The mean over all positions takes any
image size.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """x + conv(relu(BN(conv(a)))) with a = relu(BN(x)); a 1x1 convolution of a for x at a change of shape."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = None
        if inputs != outputs:  # wherever the size changes, the width does too
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.bn1(x), inplace=True)
        kept = x if self.convShortcut is None else self.convShortcut(active)
        out: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(active)), inplace=True))
        return kept + out


class Group(nn.Module):
    """Blocks of one width; the first one changes width and size."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(Block(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    def __init__(self, *, depth: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        blocks, left = divmod(depth - 4, 6)
        assert blocks >= 1 and left == 0, "the config admits depths of 6n+4 only"
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.block1 = Group(blocks, widths[0], widths[1], 1)
        self.block2 = Group(blocks, widths[1], widths[2], 2)
        self.block3 = Group(blocks, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        out = functional.relu(self.bn1(out), inplace=True)
        # Channels last, so that the gradient is too: ReLU is slow where it differs.
        logits: Tensor = self.fc(out.permute(0, 2, 3, 1).mean(dim=(1, 2)))
        return logits


def _initialise(module: nn.Module) -> None:
    """He et al. 2015 by fan-out, as those works do. BatchNorm starts at scale 1 and shift 0 by itself."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def wide_resnet(*, depth: int, width: int, classes: int, channels: int) -> WideResNet:
    return WideResNet(depth=depth, width=width, classes=classes, channels=channels)
