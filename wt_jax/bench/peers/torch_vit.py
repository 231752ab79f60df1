"""ViT over tubelets in PyTorch: see `torch_networks`."""

import math

import torch  # pyright: ignore[reportMissingImports]  # of an extra
from torch import nn  # pyright: ignore[reportMissingImports]  # of an extra
from torch.nn import functional  # pyright: ignore[reportMissingImports]  # of an extra

from wt_jax.config import ViTConfig
from wt_jax.models.positions import positions

TUBELET = ViTConfig().tubelet


class Block(nn.Module):
    """A transformer's block: one matrix makes query, key and value; keys have no bias."""

    def __init__(self, channels, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(channels, eps=1e-6) for _ in range(2))
        self.qkv, self.out = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(channels, channels)
        self.query_bias, self.value_bias = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.register_buffer("key_bias", torch.zeros(channels), persistent=False)
        self.dense1, self.dense2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x):
        """(B, N, C) -> the same shape."""
        bias = torch.cat([self.query_bias, self.key_bias, self.value_bias])
        y = functional.linear(self.norm1(x), self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = y.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.dense2(functional.gelu(self.dense1(self.norm2(x))))


class ViT(nn.Module):
    """Tubelets as a linear map of reshaped pixels, blocks, norm of the tokens."""

    def __init__(self, channels, heads, depth, tokens):
        super().__init__()
        self.tubelets = nn.Module()
        self.tubelets.dense = nn.Linear(3 * math.prod(TUBELET), channels)
        self.register_buffer("places", torch.from_numpy(positions(tokens, channels)), persistent=False)
        self.blocks = nn.ModuleList(Block(channels, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x):
        """(B, 3, T, H, W), whole tubelets -> (B, C, tokens, 1, 1)."""
        t, h, w = TUBELET
        x = x.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))
        x = self.tubelets.dense(x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3))
        x = x + self.places.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).transpose(1, 2)[..., None, None]
