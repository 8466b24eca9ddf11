"""Video ResNets that torchvision does not list, built from its blocks; tensors are named as in its own.

References: moabitcoin/ig65m-pytorch for R(2+1)D-34, facebookarchive/C3D (C3D v1.1, its prototxt for feature
extraction) for Res3D-18. torchvision is imported when a network is built.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["r2plus1d_34", "res3d_18"]

_CAFFE2_EPSILON = 1e-3  # of the normalisations in VMZ, from which the weights were converted


def r2plus1d_34(n_classes: int = 400) -> nn.Module:
    """Build R(2+1)D with 34 layers as VMZ defines it."""
    from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

    model: Any = VideoResNet(BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem, n_classes)
    # Where the number of channels doubles, torchvision derives the planes between the two convolutions of the
    # second pair from the block's input, and VMZ from its own input: 9/4 of its channels.
    for stage, channels in ((model.layer2, 128), (model.layer3, 256), (model.layer4, 512)):
        stage[0].conv2[0] = Conv2Plus1D(channels, channels, channels * 9 // 4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = _CAFFE2_EPSILON
    network: nn.Module = model
    return network


def res3d_18(n_classes: int = 487) -> nn.Module:
    """Build C3D v1.1's Res3D-18: torchvision's R3D-18 with a convolution in its first shortcut."""
    from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

    model: Any = VideoResNet(BasicBlock, [Conv3DSimple] * 4, [2, 2, 2, 2], BasicStem, n_classes)
    shortcut = nn.Sequential(nn.Conv3d(64, 64, kernel_size=1, bias=False), nn.BatchNorm3d(64))
    model.layer1[0].downsample = shortcut
    network: nn.Module = model
    return network
