"""Pre-activation ResNet-18 for small images (He et al. 2016, arXiv 1603.05027): BatchNorm and ReLU come before a
convolution, and nothing follows the sum.

`preact_resnet18` ends in BatchNorm and ReLU, as in the paper and in the releases of robust overfitting (Rice et al.)
and AWP; `preact_resnet18_bare` does not, as in those of fast adversarial training. Parameter names are theirs. The
mean over all positions takes any image size.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_LAYER = 2


class PreActBlock(nn.Module):
    """x + conv(relu(BN(conv(a)))) with a = relu(BN(x)); a 1x1 convolution of a for x where its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.bn1(x), inplace=True)
        kept = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(active)), inplace=True))
        return kept + out


class PreActResNet(nn.Module):
    def __init__(self, *, ends_in_norm: bool, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.layer1 = _layer(WIDTHS[0], WIDTHS[0], 1)
        self.layer2 = _layer(WIDTHS[0], WIDTHS[1], 2)
        self.layer3 = _layer(WIDTHS[1], WIDTHS[2], 2)
        self.layer4 = _layer(WIDTHS[2], WIDTHS[3], 2)
        self.bn = nn.BatchNorm2d(WIDTHS[3]) if ends_in_norm else None
        self.linear = nn.Linear(WIDTHS[3], classes)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            out = functional.relu(self.bn(out), inplace=True)
        # Channels last, so that the gradient is too: ReLU is slow where it differs.
        logits: Tensor = self.linear(out.permute(0, 2, 3, 1).mean(dim=(1, 2)))
        return logits


def _layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = [PreActBlock(outputs, outputs, 1) for _ in range(BLOCKS_PER_LAYER - 1)]
    return nn.Sequential(PreActBlock(inputs, outputs, stride), *rest)


def preact_resnet18(*, classes: int, channels: int) -> PreActResNet:
    return PreActResNet(ends_in_norm=True, classes=classes, channels=channels)


def preact_resnet18_bare(*, classes: int, channels: int) -> PreActResNet:
    return PreActResNet(ends_in_norm=False, classes=classes, channels=channels)
