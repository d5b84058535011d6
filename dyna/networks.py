"""Networks whose members are computed side by side: one batched matrix product a layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dyna.kernels.activations import normalised_silu, normalised_silu_back

Activation = Callable[[Tensor], Tensor]
Layer = tuple[Tensor, Tensor]  # bias [K, 1, out] and weight [K, in, out] of a layer
Affine = Callable[[Tensor, Tensor, Tensor], Tensor]  # bias, x, weight -> x @ weight + bias
MANY = 512  # rows a member from which members are computed one after the other
BLOCK = 1024  # rows


def silu(x: Tensor) -> Tensor:
    """The activation x sigmoid(x), element by element; where no gradient is asked for, it overwrites x."""
    return functional.silu(x, inplace=not torch.is_grad_enabled())


class NormalisedSiLU(torch.autograd.Function):
    """SiLU of the units [..., n] of a layer, normalised row by row, in one pass: a third of the time of the two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        y, norm, slope = (torch.empty_like(x) for _ in range(3))
        per_std = x.new_empty(x.shape[:-1])
        normalised_silu(_rows(x), _rows(y), _rows(norm), _rows(slope), per_std.view(-1).numpy())
        ctx.save_for_backward(norm, slope, per_std)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_y: Tensor) -> Tensor:
        norm, slope, per_std = ctx.saved_tensors
        by_x = torch.empty_like(norm)
        given = _rows(by_y.contiguous()), _rows(norm), _rows(slope)
        normalised_silu_back(*given, per_std.view(-1).numpy(), _rows(by_x))
        return by_x


def _rows(x: Tensor) -> Any:
    return x.detach().view(-1, x.shape[-1]).numpy()


class EnsembleLinear(nn.Module):
    """E linear layers, one `baddbmm`: [E, B, in] -> [E, B, out]; initialised as `nn.Linear`."""

    weight: nn.Parameter  # [E, in, out]
    bias: nn.Parameter  # [E, 1, out]

    def __init__(self, members: int, in_size: int, out_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, in_size, out_size))
        self.bias = nn.Parameter(torch.empty(members, 1, out_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.weight.shape[1])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleMLP(nn.Module):
    """E multi-layer perceptrons: [E, B, in] -> [E, B, out]; an input [B, in] is shared by all members.

    :param layer_norm: Normalise the units of every hidden layer before its activation (Ba et al. 2016, 1607.06450),
        without a learned scale.
    """

    layers: Iterable[EnsembleLinear]

    def __init__(
        self,
        members: int,
        in_size: int,
        hidden: Sequence[int],
        out_size: int,
        activation: Activation,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [in_size, *hidden, out_size]
        self.members = members
        self.layers = nn.ModuleList(EnsembleLinear(members, a, b) for a, b in itertools.pairwise(sizes))  # type: ignore[assignment]
        self.activation = activation
        self.layer_norm = layer_norm

    def reset_parameters(self) -> None:
        """Forget everything: weights as when new."""
        for layer in self.layers:
            layer.reset_parameters()

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """All members, or the chosen ones [K] alone: x [E or K, B, in] or [B, in] -> [E or K, B, out]."""
        layers = [
            (layer.bias, layer.weight) if members is None else (layer.bias[members], layer.weight[members])
            for layer in self.layers
        ]
        return self.through(layers, x)

    def through(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """What members [K] with other layers of this kind would say: x [K, B, in] or [B, in] -> [K, B, out]."""
        if x.dim() == 2:
            x = x.expand(len(layers[0][0]), *x.shape)
        if torch.is_grad_enabled() or x.device.type != "cpu" or x.shape[1] < MANY:
            return self._through(x, layers, torch.baddbmm)
        # member by member and block by block, so that the activations stay in a core's cache: up to twice as fast
        return torch.stack([self._in_blocks(rows, layers, member) for member, rows in enumerate(x)])

    def _in_blocks(self, x: Tensor, layers: Sequence[Layer], member: int) -> Tensor:
        own = [(bias[member], weight[member]) for bias, weight in layers]
        return torch.cat([self._through(block, own, torch.addmm) for block in torch.split(x, BLOCK)])

    def _through(self, x: Tensor, layers: Sequence[Layer], affine: Affine) -> Tensor:
        for bias, weight in layers[:-1]:
            x = affine(bias, x, weight)
            x = self._activated(x)
        bias, weight = layers[-1]
        if weight.shape[-1] == 1:  # a product with one column is several times slower than this
            return (x * weight.mT).sum(-1, keepdim=True) + bias
        return affine(bias, x, weight)

    def _activated(self, x: Tensor) -> Tensor:
        if not self.layer_norm:
            return self.activation(x)
        if isinstance(self.activation, nn.SiLU) and x.device.type == "cpu":
            return NormalisedSiLU.apply(x)  # type: ignore[no-any-return, no-untyped-call]
        return self.activation(functional.layer_norm(x, x.shape[-1:]))
