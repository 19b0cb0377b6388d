"""The networks that are compared with the formula: each a function of a p×p patch, the same everywhere.

A network pads its input once, by wrapping around, with ⌊p/2⌋ pixels on each side; no layer pads after that.
So it sees p×p pixels and no more, commutes with every circular shift, and a window of an image that is
⌊p/2⌋ pixels wider on each side gives the same answer inside as the image does. None decimates, which would
commute with some shifts only: the coarse scales of the U-Net are those of convolutions with gaps.

The noise is told as constant channels beside the image: σ, and its logarithm, which tells small σ apart.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

GAPS = {5: (1, 1), 7: (1, 2), 9: (1, 1, 2), 11: (1, 2, 2)}
"""Dilations of the U-Net's convolutions, from the finest scale down: together they see all of p×p."""
PATCH_SIZES = tuple(GAPS)
"""Sides of the receptive fields that all networks have."""
SIGMA_LEAST = 0.01
"""Below it the logarithm of σ tells no difference."""


@dataclass(frozen=True, slots=True)
class Pixel:
    """What is known of a clean pixel x from the pixel of B y at the same place alone, to second order."""

    mean: float
    """Of x."""
    variance: float
    """Of x."""
    mean_seen: float
    """Of B A x."""
    variance_seen: float
    """Of B A x."""
    covariance: float
    """Of x and B A x."""
    noise: float
    """Variance that noise of σ = 1 leaves in B y."""


class Network(nn.Module):
    """A function of p×p patches and σ.

    It starts from the best linear estimate from the pixel alone; the body sees its input, and is asked for
    what that estimate is off by, in units of their standard deviations, whatever σ is.

    Parameters
    ----------
    body : Module
        Takes (n, C + 2, h + p − 1, w + p − 1) to (n, C, h, w).
    p : int
        Side of the receptive field, in pixels, odd.
    pixel : Pixel
        Of the training images.
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
        """Reconstruct the pixels whose patches lie inside of windows, (n, C, h + p − 1, w + p − 1)."""
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
    """x + body(x), x cut to the size of what the body leaves."""

    def __init__(self, *body: nn.Module, reach: int = 0) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        """Take (n, width, h, w) to (n, width, h − 2 reach, w − 2 reach)."""
        result: Tensor = cropped(x, self.reach) + self.body(x)
        return result


class Scales(nn.Module):
    """The body of a U-Net without decimation.

    On the way down a 3×3 convolution looks at each scale, with larger gaps the coarser it is; on the way up,
    what the finer scale had is joined and mixed, pixel by pixel.
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
        """Take (n, C + 2, h + p − 1, w + p − 1) to (n, C, h, w)."""
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
    """Make a perceptron of the patch: one p×p convolution, then residual blocks of single pixels."""
    blocks = (pixelwise(width) for _ in range(depth))
    last = (nn.SiLU(), nn.Conv2d(width, channels, 1))
    return Network(nn.Sequential(nn.Conv2d(channels + 2, width, p), *blocks, *last), p, pixel)


def resnet(p: int, channels: int, pixel: Pixel, width: int = 64) -> Network:
    """Make residual blocks, of 3×3 pixels and of single ones in turn."""
    blocks = [block(width) for _ in range(p // 2) for block in (spatial, pixelwise)]
    last = (nn.SiLU(), nn.Conv2d(width, channels, 1))
    return Network(nn.Sequential(nn.Conv2d(channels + 2, width, 1), *blocks, *last), p, pixel)


def unet(p: int, channels: int, pixel: Pixel, width: int = 64) -> Network:
    """Make a U-Net whose scales are those of `GAPS`."""
    return Network(Scales(GAPS[p], channels, width), p, pixel)


NETWORKS: Mapping[str, Callable[[int, int, Pixel], Network]] = {
    "PatchMLP": patch_mlp,
    "ResNet": resnet,
    "U-Net": unet,
}
"""Each is made of p, the number of channels, and what a pixel tells."""


def pixelwise(width: int) -> Residual:
    return Residual(nn.SiLU(), nn.Conv2d(width, width, 1), nn.SiLU(), nn.Conv2d(width, width, 1))


def spatial(width: int) -> Residual:
    return Residual(nn.SiLU(), nn.Conv2d(width, width, 3), nn.SiLU(), nn.Conv2d(width, width, 1), reach=1)


def cropped(x: Tensor, reach: int) -> Tensor:
    """Leave out so many pixels on each side."""
    height, width = x.shape[-2:]
    return x[..., reach : height - reach, reach : width - reach]
