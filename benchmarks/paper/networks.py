"""The networks that are compared with the formula: each a function of a p×p patch, the same everywhere.

A network pads its input once, by wrapping around, with ⌊p/2⌋ pixels on each side; no layer pads after that.
So its receptive field is p×p pixels and no more, it commutes with every circular shift, and a window of an
image that is ⌊p/2⌋ pixels wider on each side gives the same result inside as the whole image. No network
decimates, which would commute with some shifts only: the coarse scales of the U-Net are dilated convolutions.

The noise level is given as constant channels beside the image: σ, and its logarithm, which distinguishes
small σ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

GAPS = {5: (1, 1), 7: (1, 2), 9: (1, 1, 2), 11: (1, 2, 2)}
"""Dilations of the U-Net's convolutions, from the finest scale down: together they cover p×p pixels."""
PATCH_SIZES = tuple(GAPS)
"""Receptive fields that all networks support."""
SIGMA_LEAST = 0.01
"""Below it the logarithm of σ is constant."""


@dataclass(frozen=True, slots=True)
class Pixel:
    """Second-order statistics of a clean pixel x and the pixel of B y at the same position."""

    mean: float
    """Mean of x."""
    variance: float
    """Variance of x."""
    mean_seen: float
    """Mean of B A x."""
    variance_seen: float
    """Variance of B A x."""
    covariance: float
    """Covariance of x and B A x."""
    noise: float
    """Variance of the noise in B y for σ = 1."""


class Network(nn.Module):
    """A function of p×p patches and σ.

    It starts from the best linear estimate from the pixel alone. The body gets the input and predicts the
    residual of that estimate, both in units of their standard deviations, for every σ.

    Parameters
    ----------
    body : Module
        Maps (n, C + 2, h + p − 1, w + p − 1) to (n, C, h, w).
    p : int
        Side of the receptive field, in pixels, odd.
    pixel : Pixel
        Statistics of the training images.
    """

    def __init__(self, body: nn.Module, p: int, pixel: Pixel) -> None:
        super().__init__()
        self.body = body
        self.reach = p // 2
        self.pixel = pixel

    def forward(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Reconstruct images.

        Parameters
        ----------
        z : Tensor, float32, (n, C, H, W)
            Measurements with the pre-inverse applied; they wrap around.
        sigma : Tensor, float32, (n,)
            Noise standard deviation of each measurement, in intensities.

        Returns
        -------
        Tensor, float32, (n, C, H, W)
        """
        return self.inside(functional.pad(z, (self.reach,) * 4, mode="circular"), sigma)

    def inside(self, z: Tensor, sigma: Tensor) -> Tensor:
        """Reconstruct the pixels whose patches lie inside windows, (n, C, h + p − 1, w + p − 1)."""
        sigma, pixel = sigma[:, None, None, None], self.pixel
        scale = (pixel.variance_seen + pixel.noise * sigma.square()).rsqrt()
        unit = (z - pixel.mean_seen) * scale
        # Both channels are between −2 and 2.
        level = torch.cat([2 * sigma, sigma.clamp(min=SIGMA_LEAST).log() / 2 + 1], dim=1)
        seen = torch.cat([unit, level.expand(-1, -1, *z.shape[2:])], dim=1)
        slope = pixel.covariance * scale
        spread = (pixel.variance - slope.square()).clamp(min=0).sqrt()
        result: Tensor = pixel.mean + slope * cropped(unit, self.reach) + spread * self.body(seen)
        return result


class Residual(nn.Module):
    """x + body(x), with x cropped to the size of body(x)."""

    def __init__(self, *body: nn.Module, reach: int = 0) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, width, h, w) to (n, width, h − 2 reach, w − 2 reach)."""
        result: Tensor = cropped(x, self.reach) + self.body(x)
        return result


class Scales(nn.Module):
    """The body of a U-Net without decimation.

    On the way down there is a 3×3 convolution for each scale, with larger dilation the coarser it is; on the
    way up, the finer scale is concatenated and mixed, pixel by pixel.
    """

    def __init__(self, gaps: tuple[int, ...], channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 2, width, 1)
        self.down = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, dilation=gap), pixelwise(width))
            for gap in gaps
        )
        self.up = nn.ModuleList(nn.Sequential(nn.Conv2d(2 * width, width, 1), pixelwise(width)) for _ in gaps)
        self.last = nn.Sequential(nn.SiLU(), nn.Conv2d(width, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, C + 2, h + p − 1, w + p − 1) to (n, C, h, w)."""
        x = self.first(x)
        finer = []
        for down in self.down:
            finer.append(x)
            x = down(x)
        for up, fine in zip(self.up, reversed(finer), strict=True):
            reach = (fine.shape[-1] - x.shape[-1]) // 2
            x = up(torch.cat([x, cropped(fine, reach)], dim=1))
        result: Tensor = self.last(x)
        return result


def patch_mlp(p: int, channels: int, pixel: Pixel, width: int = 128, depth: int = 3) -> Network:
    """Return a perceptron of the patch: one p×p convolution, then residual blocks of single pixels."""
    blocks = (pixelwise(width) for _ in range(depth))
    last = (nn.SiLU(), nn.Conv2d(width, channels, 1))
    return Network(nn.Sequential(nn.Conv2d(channels + 2, width, p), *blocks, *last), p, pixel)


def resnet(p: int, channels: int, pixel: Pixel, width: int = 64) -> Network:
    """Return a network of residual blocks, of 3×3 pixels and of single pixels in turn."""
    blocks = [block(width) for _ in range(p // 2) for block in (spatial, pixelwise)]
    last = (nn.SiLU(), nn.Conv2d(width, channels, 1))
    return Network(nn.Sequential(nn.Conv2d(channels + 2, width, 1), *blocks, *last), p, pixel)


def unet(p: int, channels: int, pixel: Pixel, width: int = 64) -> Network:
    """Return a U-Net with the scales of `GAPS`."""
    return Network(Scales(GAPS[p], channels, width), p, pixel)


NETWORKS: Mapping[str, Callable[[int, int, Pixel], Network]] = {
    "PatchMLP": patch_mlp,
    "ResNet": resnet,
    "U-Net": unet,
}
"""Constructors of the networks, called with p, the number of channels and the pixel statistics."""


def pixelwise(width: int) -> Residual:
    return Residual(nn.SiLU(), nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1))


def spatial(width: int) -> Residual:
    return Residual(nn.SiLU(), nn.Conv2d(width, width, 3), nn.SiLU(), nn.Conv2d(width, width, 1), reach=1)


def cropped(x: Tensor, reach: int) -> Tensor:
    """Crop this many pixels on each side."""
    height, width = x.shape[-2:]
    return x[..., reach : height - reach, reach : width - reach]
