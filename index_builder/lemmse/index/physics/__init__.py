"""The inverse problem y = A x + e of an index: the forward operator A, the pre-inverse B and the noise e.

Keys are patches of B A x, and queries are patches of B y; builder and estimator use the `InverseProblem` of
the two specifications in the manifest. The noise is white, or has a `Spectrum`. Specifications of A:

    identity                      A = I
    blur:gaussian:STD             circular convolution with a Gaussian, STD in pixels
    blur:disk:RADIUS              … with a disk: the pixels whose centre is within RADIUS of the middle
    blur:FILE                     … with the kernel in a .npy or grey .png, of any shape, made to sum to 1
    inpaint:center:SIDE           a square of SIDE × SIDE pixels is missing in the middle: SIDE rows from
                                  ⌊H/2⌋ − ⌊SIDE/2⌋ on, columns likewise; 9 … 23 for 15 in 32
    inpaint:random:PERCENT[:SEED] PERCENT of the pixels are missing, the same in all images of a size
    inpaint:FILE                  missing where the mask in a .npy or .png, (H, W) or (H, W, C), is 0

and of B:

    identity                      B = I: physics-agnostic
    mask                          with inpaint: 1 where observed, 0 where missing
    epsilon:EPS                   with inpaint: 1 where observed, EPS where missing
    inverse                       with blur: 1 / (H + 1e-7) at each frequency, H being the transfer function
    wiener:LAMBDA                 with blur: conj(H) / (|H|² + LAMBDA)

A kernel of h × w pixels has its origin o at row ⌊h/2⌋, column ⌊w/2⌋: (A x)[n] = Σ_a kernel[a] x[n − a + o],
where positions wrap around. It may be larger than the image. All channels are blurred alike.

To add an operator, add a module here and a line to a table in `_problem.py`.
"""

from lemmse.index.physics._problem import PHYSICS, PRE_INVERSES, InverseProblem
from lemmse.index.physics.noise import Whitening, whitening
from lemmse.index.physics.noise_frames import read_spectrum
from lemmse.index.physics.spectrum import Spectrum

__all__ = [
    "PHYSICS",
    "PRE_INVERSES",
    "InverseProblem",
    "Spectrum",
    "Whitening",
    "read_spectrum",
    "whitening",
]
