"""Laws of stacked networks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dyna.networks import BLOCK, EnsembleMLP, NormalisedSiLU


def test_each_member_is_a_network_of_its_own() -> None:
    stack = EnsembleMLP(3, 5, [16, 16], 4, F.silu)
    x = torch.randn(3, 7, 5)
    out = stack(x)
    for member in range(3):
        plain = nn.Sequential()
        for layer in stack.layers:
            linear = nn.Linear(*layer.weight.shape[1:])
            linear.weight.data, linear.bias.data = layer.weight[member].T, layer.bias[member, 0]
            plain.extend([linear, nn.SiLU()])
        torch.testing.assert_close(out[member], plain[:-1](x[member]))


def test_blocks_and_chosen_members_change_nothing() -> None:
    stack, x = EnsembleMLP(4, 3, [8], 2, F.silu), torch.randn(2 * BLOCK + 5, 3)
    with_gradient = stack(x)
    with torch.no_grad():
        torch.testing.assert_close(stack(x), with_gradient)
        torch.testing.assert_close(stack(x, torch.tensor([2, 0])), with_gradient[[2, 0]])


def test_members_start_different() -> None:
    out = EnsembleMLP(5, 3, [8], 1, F.silu)(torch.ones(1, 3))
    assert len(out.unique()) == 5


@pytest.mark.parametrize("spread", [1e-4, 1.0, 1e4])
def test_normalised_silu_is_layer_norm_and_silu(spread: float) -> None:
    x = (spread * torch.randn(3, 50, 21)).requires_grad_()
    weight = torch.randn(3, 50, 21)
    slopes = []
    for activated in (NormalisedSiLU.apply, lambda x: F.silu(F.layer_norm(x, x.shape[-1:]))):
        y = activated(x)
        slopes.append((y.detach(), *torch.autograd.grad((y * weight).sum(), x)))
    for found, expected in zip(*slopes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_normalised_silu_takes_extremes_and_hides_no_nan() -> None:
    wide = torch.zeros(3, 20_000)
    wide[0, 7], wide[1, 7], wide[2, 7] = 1.0, -1.0, torch.nan  # 141 standard deviations from the others
    found: Tensor = NormalisedSiLU.apply(wide)
    torch.testing.assert_close(found[:2], F.silu(F.layer_norm(wide, wide.shape[-1:]))[:2])
    assert found[2].isnan().all()


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_last_layer_of_one_unit_is_a_layer_like_others(outputs: int) -> None:
    stack, x = EnsembleMLP(3, 5, [16], outputs, F.silu), torch.randn(3, 7, 5)
    first, last = stack.layers
    torch.testing.assert_close(
        stack(x), torch.baddbmm(last.bias, F.silu(torch.baddbmm(first.bias, x, first.weight)), last.weight)
    )
