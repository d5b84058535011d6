"""Layer normalisation and SiLU in one pass over rows, with what the gradient needs."""

from __future__ import annotations

import math

import numpy as np

from dyna.kernels.compiling import Floats, reordered

ONE, HALF = np.float32(1), np.float32(0.5)
EPSILON = np.float32(1e-5)  # torch's
LOG2_E = np.float32(1 / math.log(2))
EXPONENT, BIAS, WIDEST = np.int32(2**23), np.int32(127), np.float32(120)  # of a float32
TAYLOR = [np.float32(math.log(2) ** n / math.factorial(n)) for n in range(7)]  # of 2^x: 1e-7 on [-1/2, 1/2]
C1, C2, C3, C4, C5, C6 = TAYLOR[1:]


@reordered
def normalised_silu(x: Floats, y: Floats, norm: Floats, slope: Floats, per_std: Floats) -> None:
    """y [R, n] = silu(norm), norm [R, n] = (x - mean) / std of each row; slope [R, n] = silu'(norm), per_std [R]."""
    rows, size = x.shape
    share = ONE / np.float32(size)
    for row in range(rows):
        total, squares = np.float32(0), np.float32(0)
        for i in range(size):
            total += x[row, i]
        mean = total * share
        for i in range(size):
            off = x[row, i] - mean
            squares += off * off
        scale = ONE / np.float32(math.sqrt(squares * share + EPSILON))
        per_std[row] = scale
        for i in range(size):
            z = (x[row, i] - mean) * scale
            # e^-z as 2^whole * 2^part, the first by the bits of a float: a call of exp would keep the loop from vectors
            power = -z * LOG2_E
            power = power if power < WIDEST else WIDEST
            power = power if power > -WIDEST else -WIDEST
            whole = np.floor(power + HALF)
            part = power - whole
            fraction = ONE + part * (C1 + part * (C2 + part * (C3 + part * (C4 + part * (C5 + part * C6)))))
            sigmoid = ONE / (ONE + fraction * np.int32((np.int32(whole) + BIAS) * EXPONENT).view(np.float32))
            norm[row, i] = z
            y[row, i] = z * sigmoid
            slope[row, i] = sigmoid + z * sigmoid * (ONE - sigmoid)


@reordered
def normalised_silu_back(by_y: Floats, norm: Floats, slope: Floats, per_std: Floats, by_x: Floats) -> None:
    """The gradient by x [R, n] from that by y."""
    rows, size = by_y.shape
    share = ONE / np.float32(size)
    for row in range(rows):
        total, along = np.float32(0), np.float32(0)
        for i in range(size):
            by_norm = by_y[row, i] * slope[row, i]
            by_x[row, i] = by_norm
            total += by_norm
            along += by_norm * norm[row, i]
        total, along, scale = total * share, along * share, per_std[row]
        for i in range(size):
            by_x[row, i] = scale * (by_x[row, i] - total - norm[row, i] * along)
