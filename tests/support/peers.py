"""Other projects' modules for comparison: how to import them here, and small stand-ins for those that are not on PyPI.

`slow_r50` stands for PyTorchVideo's and PySlowFast's, `CoCLRS3D` for that of CoCLR's code: written from the structure and
the parameter names of those projects, layer by layer in plain PyTorch, so that wt_jax's own code is not compared with itself.
"""

import os

import pytest

torch = pytest.importorskip("torch")

from wt_jax.bench.official.sources import declare_operators  # noqa: E402  # it imports torch

nn = torch.nn
torch.set_num_threads(1)


def torchvision():
    """torchvision, or skip."""
    declare_operators()
    return pytest.importorskip("torchvision")


def transformers():
    """transformers, offline, or skip."""
    declare_operators()  # it imports torchvision where that is installed
    os.environ["HF_HUB_OFFLINE"] = "1"
    return pytest.importorskip("transformers")


def randomize(module, seed=0):
    """Random norms too, statistics included: fresh ones would hide a forgotten tensor. He's convolutions keep the signal."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor, low, high):
        tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for part in module.modules():
        if isinstance(part, nn.BatchNorm3d | nn.LayerNorm):
            uniform(part.weight, 0.5, 1.5)
            uniform(part.bias, -0.5, 0.5)
        if isinstance(part, nn.BatchNorm3d):
            uniform(part.running_mean, -0.5, 0.5)
            uniform(part.running_var, 0.5, 2.0)
        if isinstance(part, nn.Conv3d) and part.bias is None:
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
        if isinstance(part, nn.Linear) and part.bias is not None:
            uniform(part.bias, -0.5, 0.5)
    return module.eval()


class Bottleneck(nn.Module):
    """PyTorchVideo's residual block."""

    def __init__(self, width_in, width, time, step):
        super().__init__()
        if width_in != 4 * width or step > 1:
            self.branch1_conv = nn.Conv3d(width_in, 4 * width, 1, (1, step, step), bias=False)
            self.branch1_norm = nn.BatchNorm3d(4 * width)
        self.branch2 = nn.ModuleDict(
            {
                "conv_a": nn.Conv3d(width_in, width, (time, 1, 1), padding=(time // 2, 0, 0), bias=False),
                "norm_a": nn.BatchNorm3d(width),
                "conv_b": nn.Conv3d(width, width, (1, 3, 3), (1, step, step), (0, 1, 1), bias=False),
                "norm_b": nn.BatchNorm3d(width),
                "conv_c": nn.Conv3d(width, 4 * width, 1, bias=False),
                "norm_c": nn.BatchNorm3d(4 * width),
            }
        )

    def forward(self, x):
        b = self.branch2
        y = torch.relu(b["norm_a"](b["conv_a"](x)))
        y = torch.relu(b["norm_b"](b["conv_b"](y)))
        y = b["norm_c"](b["conv_c"](y))
        return torch.relu(y + (self.branch1_norm(self.branch1_conv(x)) if hasattr(self, "branch1_conv") else x))


class SlowR50(nn.Module):
    """Slow R50 8x8 in the names of PyTorchVideo; forward gives the pooled features."""

    def __init__(self):
        super().__init__()
        stem = nn.ModuleDict(
            {"conv": nn.Conv3d(3, 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False), "norm": nn.BatchNorm3d(64)}
        )
        stages, width_in = [], 64
        for depth, width, time, step in ((3, 64, 1, 1), (4, 128, 1, 2), (6, 256, 3, 2), (3, 512, 3, 2)):
            blocks = [Bottleneck(width_in if i == 0 else 4 * width, width, time, step if i == 0 else 1) for i in range(depth)]
            stages.append(nn.ModuleDict({"res_blocks": nn.ModuleList(blocks)}))
            width_in = 4 * width
        self.blocks = nn.ModuleList([stem, *stages, nn.ModuleDict({"proj": nn.Linear(2048, 400)})])

    def forward(self, x):
        stem, *stages, _ = self.blocks
        x = nn.functional.max_pool3d(torch.relu(stem["norm"](stem["conv"](x))), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for stage in stages:
            for block in stage["res_blocks"]:
                x = block(x)
        return x.mean((2, 3, 4))


class ConvBN(nn.Module):
    """CoCLR's convolution with its norm."""

    def __init__(self, width_in, width):
        super().__init__()
        self.conv, self.bn = nn.Conv3d(width_in, width, 1, bias=False), nn.BatchNorm3d(width)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class SpaceTime(nn.Module):
    """CoCLR's separable convolution."""

    def __init__(self, width_in, width, size, step=1):
        super().__init__()
        pad = size // 2
        self.conv1 = nn.Conv3d(width_in, width, (1, size, size), (1, step, step), (0, pad, pad), bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, (size, 1, 1), (step, 1, 1), (pad, 0, 0), bias=False)
        self.bn2 = nn.BatchNorm3d(width)

    def forward(self, x):
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Mixed(nn.Module):
    """CoCLR's Inception block."""

    def __init__(self, width_in, a, b1, b2, c1, c2, d):
        super().__init__()
        self.branch0 = nn.Sequential(ConvBN(width_in, a))
        self.branch1 = nn.Sequential(ConvBN(width_in, b1), SpaceTime(b1, b2, 3))
        self.branch2 = nn.Sequential(ConvBN(width_in, c1), SpaceTime(c1, c2, 3))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), ConvBN(width_in, d))

    def forward(self, x):
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], 1)


class CoCLRS3D(nn.Module):
    """CoCLR's S3D: every layer under two names; forward gives the pooled features."""

    def __init__(self):
        super().__init__()
        self.Conv_1a, self.Conv_2b, self.Conv_2c = SpaceTime(3, 64, 7, 2), ConvBN(64, 64), SpaceTime(64, 192, 3)
        flat = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))
        self.block1 = nn.Sequential(self.Conv_1a)
        self.block2 = nn.Sequential(flat, self.Conv_2b, self.Conv_2c)
        pools = {"3": flat, "4": nn.MaxPool3d(3, 2, 1), "5": nn.MaxPool3d(2, 2)}
        widths = {
            "3b": (192, 64, 96, 128, 16, 32, 32),
            "3c": (256, 128, 128, 192, 32, 96, 64),
            "4b": (480, 192, 96, 208, 16, 48, 64),
            "4c": (512, 160, 112, 224, 24, 64, 64),
            "4d": (512, 128, 128, 256, 24, 64, 64),
            "4e": (512, 112, 144, 288, 32, 64, 64),
            "4f": (528, 256, 160, 320, 32, 128, 128),
            "5b": (832, 256, 160, 320, 32, 128, 128),
            "5c": (832, 384, 192, 384, 48, 128, 128),
        }
        for number, pool in pools.items():
            blocks = {name: Mixed(*sizes) for name, sizes in widths.items() if name[0] == number}
            for name, block in blocks.items():
                setattr(self, f"Mixed_{name}", block)
            setattr(self, f"block{number}", nn.Sequential(pool, *blocks.values()))

    def forward(self, x):
        return self.block5(self.block4(self.block3(self.block2(self.block1(x))))).mean((2, 3, 4))
