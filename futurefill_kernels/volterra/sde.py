"""Stochastic Volterra equations: Euler's scheme for many paths at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .implicit import Rate
from .kernels import Kernel, as_kernel
from .march import BLOCK, Progress
from .memory import Memory
from .problem import checked_rate, initial_value
from .solution import Solution, grid

Noise = Callable[[int, int], Tensor]


@torch.no_grad()
def volterra_paths(
    kernel: Kernel | Callable[[Tensor], Tensor],
    drift: Rate,
    diffusion: Rate,
    x0: float | Sequence[float] | Tensor | Callable[[float], Tensor],
    t_end: float,
    steps: int,
    paths: int,
    *,
    noise: Noise | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    impl: str = "auto",
) -> Solution:
    """``X_t = x0(t) + integral over 0..t of k(t - s) (b(s, X_s) ds + sigma(s, X_s) dW_s)``.

    kernel: of one filter row, as in `solve_volterra`; its square has an integral. drift, diffusion:
        (t, X) -> like X, (paths,). x0: a number, (paths,), or a function of a number.
    noise: (begin, end) -> (end - begin, paths) standard normals of the steps that begin at grid
        points begin .. end-1, asked for in order; default torch.randn of the generator.

    Euler's scheme: b and sigma are held over a step and the kernel is integrated. The weight of the
    newest noise has the mean square of the kernel over its step, where the kernel's mean would lose
    variance of order ``step**(2 alpha - 1)`` (the idea of Bennedsen, Lunde and Pakkanen, Finance
    and Stochastics 21, 2017, with one cell). All paths share one filter.
    Returns times and values (steps + 1, paths). NaN in a path stays in it.
    """
    times = grid(t_end, steps)
    if paths < 1:
        raise ValueError(f"expected paths >= 1, got {paths}")
    like = torch.zeros(paths, dtype=dtype, device=device)
    moving = x0 if callable(x0) else None
    level = initial_value("x0", like if moving else x0, like=like)  # type: ignore[arg-type]
    step, at = t_end / steps, times.tolist()
    mean, excess = euler_weights(as_kernel(kernel), step, steps)
    memory = Memory(mean[None], like.shape, dtype=dtype, device=device, impl=impl)
    rate, volatility = checked_rate(drift, like), checked_rate(diffusion, like)
    draw = noise or _normals(like, generator)
    values = like.new_empty(steps + 1, paths)
    values[0] = initial_value("x0", moving(0.0), like=like) if moving else level
    given, sums, root = memory.input[0], memory.sums[0], step**0.5
    for begin in range(0, steps, BLOCK):
        end = min(begin + BLOCK, steps)
        normals = _checked(draw(begin, end), (end - begin, paths), like)
        for n, z in zip(range(begin, end), normals.unbind(0), strict=True):
            x, y = values[n], values[n + 1]
            shock = volatility(at[n], x) * z
            torch.add(rate(at[n], x) * step, shock, alpha=root, out=given)
            memory.advance()
            base = initial_value("x0", moving(at[n + 1]), like=like) if moving else level
            torch.add(base, sums, out=y)
            y.add_(shock, alpha=root * excess)
        if progress is not None:
            progress(end, steps)
    return Solution(times.to(values.device), values)


def euler_weights(kernel: Kernel, step: float, steps: int) -> tuple[Tensor, float]:
    """(1, steps) mean of the kernel over each step, and what the newest noise gets on top."""
    mean = kernel.moments(step, steps)[0] / step
    square = kernel.first_square(step) / step
    if len(mean) != 1:
        raise ValueError(f"expected a kernel of one filter row for paths, got {len(mean)}")
    return mean, float(square.sqrt() * mean[:, 0].sign() - mean[:, 0])


def _normals(like: Tensor, generator: torch.Generator | None) -> Noise:
    def draw(begin: int, end: int) -> Tensor:
        size = (end - begin, *like.shape)
        return torch.randn(size, dtype=like.dtype, device=like.device, generator=generator)

    return draw


def _checked(normals: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if normals.shape != shape or normals.dtype != like.dtype:
        raise ValueError(
            f"expected noise {shape} in {like.dtype}, got {tuple(normals.shape)} in {normals.dtype}"
        )
    return normals
