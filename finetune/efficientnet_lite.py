"""EfficientNet-Lite0, the architecture of the embedded base model.

The network of Tan & Le 2019 (arXiv:1905.11946) in its Lite variant: no squeeze-and-excitation, ReLU6 instead of Swish, stem and head not
scaled. It answers what timm's `tf_efficientnet_lite0` answers and has its tensors' names, so weights go both ways; it stands here because
importing timm and, through it, torchvision's detection operators takes longer than a whole linear probe.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

STEM, HEAD = 32, 1280
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
"""(blocks, kernel, stride of the first block, expansion, channels)"""
EPSILON = 1e-3
CLASSES = 1000


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the output has ceil(input / stride) pixels a side, and an odd pixel of padding is at the end."""

    def forward(self, images: Tensor) -> Tensor:
        """Give [n, out, ceil(h / stride), ceil(w / stride)]."""
        high, wide = (self._missing(side) for side in images.shape[-2:])
        return super().forward(functional.pad(images, (wide // 2, wide - wide // 2, high // 2, high - high // 2)))

    def _missing(self, side: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)


def convolution(channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Give a convolution with SAME padding and no bias; with stride 1 that is the same number of pixels on every side."""
    if stride > 1:
        return SameConv2d(channels, out, kernel, stride, groups=groups, bias=False)
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)


class SeparableBlock(nn.Module):
    """A convolution of each channel alone, then one that mixes them."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = convolution(channels, channels, kernel, groups=channels)
        self.bn1 = nn.BatchNorm2d(channels, EPSILON)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_pw = convolution(channels, out)
        self.bn2 = nn.BatchNorm2d(out, EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        """Give [n, out, h, w]."""
        mapped: Tensor = self.bn2(self.conv_pw(self.act1(self.bn1(self.conv_dw(images)))))
        return mapped


class InvertedResidual(nn.Module):
    """Widen, convolve each channel alone, narrow; what came in is added where the shape allows it."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.conv_pw = convolution(channels, wide)
        self.bn1 = nn.BatchNorm2d(wide, EPSILON)
        self.act1 = nn.ReLU6(inplace=True)
        self.conv_dw = convolution(wide, wide, kernel, stride, groups=wide)
        self.bn2 = nn.BatchNorm2d(wide, EPSILON)
        self.act2 = nn.ReLU6(inplace=True)
        self.conv_pwl = convolution(wide, out)
        self.bn3 = nn.BatchNorm2d(out, EPSILON)
        self.has_skip = stride == 1 and channels == out

    def forward(self, images: Tensor) -> Tensor:
        """Give [n, out, ceil(h / stride), ceil(w / stride)]."""
        mapped: Tensor = self.act1(self.bn1(self.conv_pw(images)))
        mapped = self.act2(self.bn2(self.conv_dw(mapped)))
        mapped = self.bn3(self.conv_pwl(mapped))
        return mapped + images if self.has_skip else mapped


class EfficientNetLite0(nn.Module):
    """Normalised float [n, 3, h, w] to logits [n, classes]; weights are random."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.num_classes = classes
        self.conv_stem = convolution(3, STEM, 3, 2)
        self.bn1 = nn.BatchNorm2d(STEM, EPSILON)
        self.act1 = nn.ReLU6(inplace=True)
        stages, channels = [], STEM
        for count, kernel, stride, expansion, out in STAGES:
            first = SeparableBlock(channels, out, kernel) if expansion == 1 else InvertedResidual(channels, out, kernel, stride, expansion)
            stages.append(nn.Sequential(first, *(InvertedResidual(out, out, kernel, 1, expansion) for _ in range(count - 1))))
            channels = out
        self.blocks = nn.Sequential(*stages)
        self.conv_head = convolution(channels, HEAD)
        self.bn2 = nn.BatchNorm2d(HEAD, EPSILON)
        self.act2 = nn.ReLU6(inplace=True)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        self.classifier = nn.Linear(HEAD, classes)
        self.apply(_draw)

    def forward(self, images: Tensor) -> Tensor:
        """Give logits."""
        mapped = self.blocks(self.act1(self.bn1(self.conv_stem(images))))
        mapped = self.act2(self.bn2(self.conv_head(mapped)))
        logits: Tensor = self.classifier(self.global_pool(mapped))
        return logits


@torch.no_grad()
def _draw(module: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan out), the fan of each group (He et al. 2015, arXiv:1502.01852)."""
    if isinstance(module, nn.Conv2d):
        fan = module.out_channels * module.kernel_size[0] * module.kernel_size[1] // module.groups
        module.weight.normal_(0.0, math.sqrt(2 / fan))
