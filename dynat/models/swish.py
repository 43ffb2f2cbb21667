"""Pre-activation networks with Swish (SiLU), as trained with generated images: most of RobustBench's CIFAR entries.

The WideResNets of Gowal et al. 2020 (arXiv 2010.03593) and the pre-activation ResNet-18 of Rebuffi et al. 2021
(arXiv 2103.01946), which Wang et al. 2023 and others use too. Parameter names are those of RobustBench's
`DMWideResNet` and `DMPreActResNet`. Two things differ from our other networks: a convolution with stride 2 is padded
at the right and the lower side only, and pixels are normalized by constants that no file of weights contains
(`normalization`). The mean over all positions takes any image size; theirs take 32x32.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

CONSTANTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "gray": ((0.5,), (0.5,)),
}
"""Mean and standard deviation of pixels in [0,1]."""


def normalization(*, classes: int, channels: int, **_: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The constants of a network: CIFAR-100's for 100 classes of color images, else CIFAR-10's."""
    if channels != 3:
        return CONSTANTS["gray"]
    return CONSTANTS["cifar100" if classes == 100 else "cifar10"]


def conv3x3(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """For an input that `padded` has padded: ceil(size / stride) rows and columns, as TensorFlow's `SAME`."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1 if stride == 1 else 0, bias=False)


def padded(x: Tensor, stride: int) -> Tensor:
    """Zeros at the right and the lower side where the stride is 2, or on all sides if the size is odd; a convolution
    of stride 1 pads by itself."""
    return x if stride == 1 else F.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1))


class WideBlock(nn.Module):
    """x + conv(silu(BN(conv(a)))) with a = silu(BN(x)); a 1x1 convolution of a for x at a change of width."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = conv3x3(inputs, outputs, stride)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = conv3x3(outputs, outputs, 1)
        self.shortcut = None
        if inputs != outputs:  # wherever the size changes, the width does too
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        active = F.silu(self.batchnorm_0(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv_1(F.silu(self.batchnorm_1(self.conv_0(padded(active, self.stride)))))
        return kept + out


class Group(nn.Module):
    """Blocks of one width; the first one changes width and size."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = [WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.block = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class SwishWideResNet(nn.Module):
    """`depth` counts as in Zagoruyko & Komodakis: 6n+4."""

    def __init__(self, *, depth: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        blocks, left = divmod(depth - 4, 6)
        assert blocks >= 1 and left == 0, "the config admits depths of 6n+4 only"
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.init_conv = conv3x3(channels, widths[0], 1)
        self.layer = nn.Sequential(
            Group(blocks, widths[0], widths[1], 1),
            Group(blocks, widths[1], widths[2], 2),
            Group(blocks, widths[2], widths[3], 2),
        )
        self.batchnorm = nn.BatchNorm2d(widths[3])
        self.logits = nn.Linear(widths[3], classes)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(self.batchnorm(self.layer(self.init_conv(x))))
        # Channels last, so that the gradient is too: ReLU is slow where it differs.
        logits: Tensor = self.logits(out.permute(0, 2, 3, 1).mean(dim=(1, 2)))
        return logits


class PreActBlock(nn.Module):
    """x + conv(silu(BN(conv(silu(BN(x)))))); a 3x3 convolution of x itself where its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_2d_1 = conv3x3(inputs, outputs, stride)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_2d_2 = conv3x3(outputs, outputs, 1)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = conv3x3(inputs, outputs, stride)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(padded(x, self.stride))
        out = self.conv_2d_1(padded(F.silu(self.batchnorm_0(x)), self.stride))
        out = self.conv_2d_2(F.silu(self.batchnorm_1(out)))
        return kept + out  # type: ignore[no-any-return]


class SwishPreActResNet(nn.Module):
    """Of 18 layers: two blocks of each width."""

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        self.conv_2d = conv3x3(channels, 64, 1)
        self.layer_0 = nn.Sequential(PreActBlock(64, 64, 1), PreActBlock(64, 64, 1))
        self.layer_1 = nn.Sequential(PreActBlock(64, 128, 2), PreActBlock(128, 128, 1))
        self.layer_2 = nn.Sequential(PreActBlock(128, 256, 2), PreActBlock(256, 256, 1))
        self.layer_3 = nn.Sequential(PreActBlock(256, 512, 2), PreActBlock(512, 512, 1))
        self.batchnorm = nn.BatchNorm2d(512)
        self.logits = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer_3(self.layer_2(self.layer_1(self.layer_0(self.conv_2d(x)))))
        # Channels last, so that the gradient is too: ReLU is slow where it differs.
        logits: Tensor = self.logits(F.silu(self.batchnorm(out)).permute(0, 2, 3, 1).mean(dim=(1, 2)))
        return logits


def _initialise(module: nn.Module) -> None:
    """He et al. 2015 by fan-out, as in our other WideResNets. BatchNorm starts at scale 1 and shift 0 by itself."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def wide_resnet_swish(*, depth: int, width: int, classes: int, channels: int) -> SwishWideResNet:
    return SwishWideResNet(depth=depth, width=width, classes=classes, channels=channels)


def preact_resnet18_swish(*, classes: int, channels: int) -> SwishPreActResNet:
    return SwishPreActResNet(classes=classes, channels=channels)
