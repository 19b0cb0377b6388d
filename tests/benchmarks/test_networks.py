"""What makes a network comparable with the formula: its receptive field, its symmetry, its knowledge of σ."""

import pytest
import torch

from benchmarks.paper.networks import NETWORKS, PATCH_SIZES, Pixel

SIDE = 16
CENTRE = SIDE // 2
PIXEL = Pixel(mean=0.3, variance=0.1, mean_seen=0.2, variance_seen=0.08, covariance=0.07, noise=1.5)

every_network = pytest.mark.parametrize("name", NETWORKS)
every_size = pytest.mark.parametrize("p", PATCH_SIZES)


def made(name, p, channels=2):
    with torch.random.fork_rng():
        torch.manual_seed(p)
        return NETWORKS[name](p, channels, PIXEL).double()


def images(count, channels=2):
    return torch.rand(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()


@every_network
@every_size
def test_a_pixel_depends_on_its_patch_and_on_nothing_else(name, p):
    network, z = made(name, p), images(1).requires_grad_()
    network(z, torch.tensor([0.3]).double())[0, 0, CENTRE, CENTRE].backward()
    seen = (z.grad[0] != 0).nonzero()[:, 1:]
    inside = [
        [r, c] for r in range(SIDE) for c in range(SIDE) if max(abs(r - CENTRE), abs(c - CENTRE)) <= p // 2
    ]
    assert sorted(set(map(tuple, seen.tolist()))) == sorted(map(tuple, inside))


@every_network
@every_size
def test_every_pixel_of_the_patch_matters(name, p):
    network, z, sigma = made(name, p), images(1), torch.tensor([0.3]).double()
    reach, before = p // 2, network(images(1), sigma)[0, :, CENTRE, CENTRE]
    for row, column in [(-reach, -reach), (-reach, reach), (reach, -reach), (reach, reach)]:
        changed = z.clone()
        changed[0, 1, CENTRE + row, CENTRE + column] += 0.5
        assert not torch.equal(network(changed, sigma)[0, :, CENTRE, CENTRE], before)
    changed = images(1)
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[CENTRE - reach : CENTRE + reach + 1, CENTRE - reach : CENTRE + reach + 1] = False
    changed[..., outside] = 9.0
    torch.testing.assert_close(network(changed, sigma)[0, :, CENTRE, CENTRE], before, rtol=0, atol=1e-12)


@every_network
@every_size
def test_a_shift_of_the_image_is_a_shift_of_the_answer(name, p):
    network, z, sigma = made(name, p), images(1), torch.tensor([0.3]).double()
    for shift in [(1, 0), (0, 1), (3, 5), (-7, 2)]:
        shifted = network(z.roll(shift, (2, 3)), sigma)
        torch.testing.assert_close(shifted, network(z, sigma).roll(shift, (2, 3)), rtol=0, atol=1e-12)


@every_network
def test_a_window_is_answered_as_in_its_image(name):
    network, z, sigma = made(name, 7), images(1), torch.tensor([0.3]).double()
    window = network.inside(z[..., 2:12, 3:13], sigma)
    torch.testing.assert_close(window, network(z, sigma)[..., 5:9, 6:10], rtol=0, atol=1e-12)


@every_network
@pytest.mark.parametrize("sigmas", [(0.02, 0.03), (0.1, 0.2), (0.9, 1.0)])
def test_the_noise_is_told(name, sigmas):
    network = made(name, 5)
    z = images(1).expand(2, -1, -1, -1)
    low, high = network.body(noisy_input(network, z, sigmas))
    assert (low - high).abs().max() > 1e-3


def noisy_input(network, z, sigmas):
    """What the body sees, but with the same scale of the image at both σ."""
    seen = []
    network.body.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    network(z, torch.tensor(sigmas).double())
    return torch.cat([seen[0][:1, :-2].expand(2, -1, -1, -1), seen[0][:, -2:]], dim=1)


def test_a_body_of_nothing_leaves_the_linear_estimate():
    """Of x = 0.3 + 0.5 (v − 0.2), v of variance 0.04, and z = v + noise of variance 2 σ²."""
    pixel = Pixel(mean=0.3, variance=0.01, mean_seen=0.2, variance_seen=0.04, covariance=0.02, noise=2)
    network = NETWORKS["PatchMLP"](5, 1, pixel).double()
    torch.nn.init.zeros_(network.body[-1].weight)
    torch.nn.init.zeros_(network.body[-1].bias)
    z = images(2, channels=1)
    low, high = network(z, torch.tensor([1e-9, 0.4]).double())
    torch.testing.assert_close(low, 0.3 + 0.5 * (z[0] - 0.2))
    torch.testing.assert_close(high, 0.3 + 0.02 / (0.04 + 2 * 0.16) * (z[1] - 0.2))
