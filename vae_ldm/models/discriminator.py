"""The discriminator: does this patch come from a photo or from the decoder?"""

import math

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola 2016, appendix 6.1.2): one logit for each patch of a picture.

    Two departures. GroupNorm in place of BatchNorm: it has no running statistics, so real and fake batches and the
    ranks of a distributed run see the same function, and a picture's gradient does not depend on its neighbours. The
    last two convolutions are 3x3 and keep the size, so that pictures from 2 ** num_layers px fit, 24x40 as well.
    """

    def __init__(self, *, in_channels: int, base_channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [base_channels * 2 ** min(level, 3) for level in range(num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level in range(1, num_layers):
            layers += [nn.Conv2d(widths[level - 1], widths[level], 4, stride=2, padding=1, bias=False)]
            layers += [_norm(widths[level]), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(widths[-2], widths[-1], 3, padding=1, bias=False), _norm(widths[-1]), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(widths[-1], 1, 3, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, 1, H / 2**num_layers, W / 2**num_layers], rounded down; above 0 speaks for a photo."""
        return self.layers(images)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 8), channels)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
