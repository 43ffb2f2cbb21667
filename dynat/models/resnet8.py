"""ResNet-8 whose first convolution has stride 2: adversarial training of 32x32 images without a GPU.

One block in each of three groups, of one, two and four times the width. On a CPU, layers with few channels at full
resolution are slow for the operations that they hold; so the resolution is halved at once. Of the networks compared in
docs/performance.md it withstands PGD best after equal processor time. The mean over all positions takes any image size.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dynat.models.resnet import BasicBlock


class ResNet8(nn.Module):
    def __init__(self, *, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = BasicBlock(width, width, 1)
        self.layer2 = BasicBlock(width, 2 * width, 2)
        self.layer3 = BasicBlock(2 * width, 4 * width, 2)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.layer3(self.layer2(self.layer1(out)))
        # Channels last, so that the gradient is too: ReLU is slow where it differs.
        logits: Tensor = self.linear(out.permute(0, 2, 3, 1).mean(dim=(1, 2)))
        return logits
