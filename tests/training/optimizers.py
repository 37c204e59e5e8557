"""Slow, obvious NumPy versions of the optimizers, written from the papers, one array at a time.

Each is a generator of directions u_t for one parameter: it is sent gradients and yields what the
rule p <- p - lr (u + decay p) subtracts.
"""

from collections.abc import Generator

import numpy as np

Array = np.ndarray
Direction = Generator[Array, Array, None]


def adam(b1: float, b2: float, eps: float) -> Direction:
    """arXiv 1412.6980, algorithm 1."""
    m, v, t, u = 0.0, 0.0, 0, None
    while True:
        g = yield u
        t += 1
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def lion(b1: float, b2: float) -> Direction:
    """arXiv 2302.06675, program 1."""
    m, u = 0.0, None
    while True:
        g = yield u
        u = np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g


def heavy_ball(momentum: float) -> Direction:
    u = 0.0
    while True:
        g = yield u
        u = momentum * u + g


def newton_schulz(x: Array, steps: int) -> Array:
    """Moves the singular values of a matrix towards one; Jordan et al. (2024)."""
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon(momentum: float, steps: int) -> Direction:
    """One [in, out] matrix; Jordan et al. (2024), with Nesterov's momentum."""
    m, u = 0.0, None
    while True:
        g = yield u
        m = momentum * m + (1 - momentum) * g
        ahead = momentum * m + (1 - momentum) * g
        u = newton_schulz(ahead, steps) * max(1.0, g.shape[1] / g.shape[0]) ** 0.5


def adafactor() -> Direction:
    """arXiv 1804.04235, algorithms 4 and 5 without the relative step; factored from 128 x 128."""
    rows, columns, v, t, u = 0.0, 0.0, 0.0, 0, None
    while True:
        g = yield u
        t += 1
        b2 = 1 - t**-0.8
        squared = g**2 + 1e-30
        if g.ndim == 2 and min(g.shape) >= 128:
            rows = b2 * rows + (1 - b2) * squared.sum(1)
            columns = b2 * columns + (1 - b2) * squared.sum(0)
            v = np.outer(rows, columns) / rows.sum()
        else:
            v = b2 * v + (1 - b2) * squared
        u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt((u**2).mean()))
