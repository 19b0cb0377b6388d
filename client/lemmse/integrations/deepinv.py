"""A denoiser and a reconstructor for deepinv: lemmse as the prior of plug-and-play methods, or as the answer.

Tensors are (B, C, H, W), in intensities of [0, 1] up to noise, on any device. Both can be differentiated with
respect to the images, not to sigma, on an index of physics identity. The derivative, by `Client.vjp`, is that
of mode exact, which the other modes approximate.
"""

import inspect
from collections.abc import Mapping
from contextlib import closing
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client import Client, connect
from lemmse.client.extras import required
from lemmse.contract.errors import FailedPrecondition, InvalidArgument, LemmseError
from lemmse.contract.measurement_arguments import GAUSSIAN
from lemmse.contract.results import IndexInfo

with required("this module"):
    import torch
    from deepinv.models import Denoiser, Reconstructor
    from deepinv.physics import Blur, BlurFFT, Denoising, Downsampling, GaussianNoise, Inpainting, Physics
    from deepinv.physics.blur import DownsamplingMatlab
    from torch.autograd.function import once_differentiable

__all__ = ["LemmseDenoiser", "LemmseReconstructor"]

_Sigma = float | NDArray[np.float64]

_OF_GRADIENTS = frozenset(inspect.signature(Client.vjp).parameters)
"""The options that say what is differentiated; those about modes and maps do not."""
_SAME = 1 / 255
"""Largest difference between the measurements of two blurs that count as the same one, in intensities."""


class LemmseDenoiser(Denoiser):
    """The posterior mean as a denoiser of deepinv.

    Parameters
    ----------
    index : Client, str or path
        A client, or what `lemmse.client.connect` takes; of an index of physics identity.
    **options
        Arguments of `lemmse.client.Client.reconstruct`, such as mode, accuracy_db or quality.

    Raises
    ------
    LemmseError
        There is no such index or server, or the options state another noise than Gaussian.
    """

    def __init__(self, index: Client | str | PathLike[str], **options: Any) -> None:
        super().__init__()
        self.options = _gaussian(options)
        self.client = index if isinstance(index, Client) else connect(index)

    def forward(self, x: torch.Tensor, sigma: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the denoised images.

        Parameters
        ----------
        x : Tensor, (B, C, H, W)
            Noisy images.
        sigma : float or array
            Noise standard deviation: one number, one for each image, (B,) or (B, 1, 1, 1), or maps that
            broadcast to x. Images whose sigma is 0 are returned as they are.

        Returns
        -------
        Tensor
            Of the shape, type and device of x.
        """
        _require_batch(x, "x")
        sigmas = _sigmas(sigma, x.shape)
        return _posterior_mean(x, self.client, sigmas, [None] * len(x), self.options)

    def extra_repr(self) -> str:
        """Return the client and the options, for the representation."""
        return _shown(self.client, self.options)


class LemmseReconstructor(Reconstructor):
    """The posterior mean as a reconstructor of deepinv.

    Of the operators, Denoising, Inpainting, Demosaicing and Downsampling without a filter need an index of
    physics identity, and Blur and BlurFFT one that was built for this blur with circular borders. The noise
    has to be Gaussian.

    Parameters
    ----------
    index, **options
        As in `LemmseDenoiser`.
    """

    def __init__(self, index: Client | str | PathLike[str], **options: Any) -> None:
        super().__init__()
        self.options = _gaussian(options)
        self.client = index if isinstance(index, Client) else connect(index)

    def forward(self, y: torch.Tensor, physics: Physics, **kwargs: Any) -> torch.Tensor:
        """Return the reconstructions of measurements.

        Parameters
        ----------
        y : Tensor, (B, C, H, W)
            The measurements.
        physics : deepinv.physics.Physics
            The operator, and its noise.

        Returns
        -------
        Tensor, (B, C, H', W')
            The images, of the type and device of y.

        Raises
        ------
        InvalidArgument
            The operator or the noise is none of those that are supported, or the index was built for another.
        """
        if not isinstance(physics.noise_model, GaussianNoise):
            raise _unsupported("noise", physics.noise_model, "GaussianNoise")
        _require_batch(y, "y")
        measured, observed = self._on_grid(y, physics)
        sigmas = _sigmas(physics.noise_model.sigma, measured.shape)
        masks = [None] * len(measured) if observed is None else _arrays(observed.expand_as(measured))
        return _posterior_mean(measured, self.client, sigmas, masks, self.options)

    def extra_repr(self) -> str:
        """Return the client and the options, for the representation."""
        return _shown(self.client, self.options)

    def _on_grid(self, y: torch.Tensor, physics: Physics) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return measurements on the grid of the image, and a mask that is 1 where there are any."""
        if isinstance(physics, Blur | BlurFFT):
            self._require_blur(physics, y)
            return y, None
        if isinstance(physics, Denoising):
            return y, None
        selects = isinstance(physics, Inpainting) or (
            isinstance(physics, Downsampling)
            and not isinstance(physics, DownsamplingMatlab)
            and physics.filter is None
        )
        if not selects:
            raise _unsupported(
                "physics",
                physics,
                "Denoising, Inpainting, Demosaicing, Downsampling without a filter, Blur or BlurFFT",
            )
        observed = physics.A_adjoint(torch.ones_like(y))
        if not torch.isin(observed, torch.tensor([0.0, 1.0], device=y.device, dtype=y.dtype)).all():
            raise InvalidArgument.of("physics", "expected a mask of 0 and 1, got other values")
        return physics.A_adjoint(y), observed

    def _require_blur(self, physics: Physics, y: torch.Tensor) -> None:
        """Raise InvalidArgument unless the index was built for this blur."""
        with required("a blur"):
            from lemmse.index.physics import InverseProblem

        name = self.options.get("index")
        info = self.client.get_index(name) if name else _only(self.client)
        if not info.physics.startswith("blur:"):
            raise FailedPrecondition(
                f"{type(physics).__name__} needs an index built with --physics blur:…, "
                f"{info.name} is one of {info.physics}"
            )
        probe = np.random.default_rng(0).random((*y.shape[-2:], y.shape[-3]))
        blurred = physics.A(torch.from_numpy(probe).to(y).movedim(-1, 0)[None])
        try:
            own = InverseProblem.parse(info.physics, info.pre_inverse).measure(probe)
        except LemmseError as error:  # a file that is elsewhere
            raise FailedPrecondition(f"the blur of index {info.name} is not known here: {error}") from error
        expected = f"the blur that index {info.name} was built for, {info.physics} with circular borders"
        if blurred.shape[1:] != y.shape[1:]:
            raise InvalidArgument.of("physics", f"expected {expected}, got one that crops")
        difference = float(np.abs(_arrays(blurred)[0] - own).max())
        if difference > _SAME:
            raise InvalidArgument.of(
                "physics", f"expected {expected}, got one that differs by {difference:.2g}"
            )


def _only(client: Client) -> IndexInfo:
    """Return the description of the only index."""
    found = client.list_indexes()
    if len(found) != 1:
        raise InvalidArgument.of(
            "index", f"expected one of {', '.join(info.name for info in found)}, got none"
        )
    return found[0]


def _unsupported(argument: str, value: object, supported: str) -> InvalidArgument:
    return InvalidArgument.of(argument, f"expected {supported}, got {type(value).__name__}")


def _gaussian(options: dict[str, Any]) -> dict[str, Any]:
    """Return options that leave the noise to deepinv's sigma."""
    if (noise := options.get("noise", GAUSSIAN)) != GAUSSIAN:
        raise InvalidArgument.of("noise", f"expected {GAUSSIAN}, with the sigma of deepinv, got {noise!r}")
    return options


def _shown(client: Client, options: Mapping[str, Any]) -> str:
    return ", ".join([repr(client), *(f"{name}={value!r}" for name, value in options.items())])


def _require_batch(x: torch.Tensor, argument: str) -> None:
    """Raise InvalidArgument unless a tensor is a batch of images."""
    if x.ndim != 4:
        raise InvalidArgument.of(argument, f"expected shape (B, C, H, W), got {tuple(x.shape)}")


def _arrays(x: torch.Tensor) -> list[NDArray[np.floating]]:
    """Return the images of a batch, (H, W, C) each, float64 if they are, otherwise float32."""
    precise = x.dtype == torch.float64
    return list(x.detach().to("cpu", torch.float64 if precise else torch.float32).movedim(1, -1).numpy())


def _posterior_mean(
    x: torch.Tensor,
    client: Client,
    sigmas: list[_Sigma],
    masks: list[Any],
    options: Mapping[str, Any],
) -> torch.Tensor:
    """Return the reconstructions of a batch, to be differentiated with respect to x."""
    mean: torch.Tensor = _PosteriorMean.apply(x, client, sigmas, masks, options)
    return mean


class _PosteriorMean(torch.autograd.Function):
    """The reconstructions of a batch; images whose sigma is 0 are their own.

    Raises
    ------
    LemmseError
        That of the first image that fails.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        client: Client,
        sigmas: list[_Sigma],
        masks: list[Any],
        options: Mapping[str, Any],
    ) -> torch.Tensor:
        ctx.save_for_backward(x)  # autograd tells if somebody changes it before `backward`
        ctx.rest = client, sigmas, masks, options
        images = _arrays(x)
        noisy = [i for i, sigma in enumerate(sigmas) if np.any(sigma)]
        outcomes = client.reconstruct_many(
            [images[i] for i in noisy],
            sigma=[sigmas[i] for i in noisy],
            mask=[masks[i] for i in noisy],
            **options,
        )
        with closing(outcomes):
            for i, outcome in zip(noisy, outcomes, strict=True):
                if isinstance(outcome, LemmseError):
                    raise outcome
                images[i] = outcome.image
        return _tensor(images, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        client, sigmas, masks, options = ctx.rest
        if options.get("estimator", "le-mmse") != "le-mmse":
            raise InvalidArgument.of(
                "estimator", f"expected le-mmse for a gradient, got {options['estimator']}"
            )
        own = {name: value for name, value in options.items() if name in _OF_GRADIENTS}
        products = _arrays(gradient)
        for i, image in enumerate(_arrays(*ctx.saved_tensors)):
            if np.any(sigmas[i]):
                products[i] = client.vjp(image, sigma=sigmas[i], vector=products[i], mask=masks[i], **own)
        return _tensor(products, gradient), None, None, None, None


def _tensor(images: list[NDArray[np.floating]], like: torch.Tensor) -> torch.Tensor:
    """Return images (H, W, C) as a batch of the type and device of another one."""
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).contiguous().to(like)


def _sigmas(sigma: Any, shape: torch.Size) -> list[float | NDArray[np.float64]]:
    """Return sigma for each image of a batch, (B, C, H, W): a number, or a map (H, W, C)."""
    values = torch.as_tensor(sigma).detach().to("cpu", torch.float64)
    if values.ndim <= 1:
        values = values.reshape(-1, 1, 1, 1)
    try:
        maps = values.expand(shape[0], *values.shape[1:])
        maps.expand(shape)
    except RuntimeError as error:
        raise InvalidArgument.of(
            "sigma",
            f"expected one number, one for each of {shape[0]} images, or maps that broadcast to "
            f"{tuple(shape)}, got shape {tuple(torch.as_tensor(sigma).shape)}",
        ) from error
    if maps.shape[1:] == (1, 1, 1):
        return [float(value) for value in maps.flatten()]
    return list(maps.expand(-1, -1, *shape[2:]).movedim(1, -1).numpy())
