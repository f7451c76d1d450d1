"""Audio: a signal through an impulse response in real time, which changes with a cross-fade.

    python examples/audio.py

Samples come in blocks, as a sound card hands them over, and leave with no delay. The stream has no
end, and its memory is that of the impulse response. A change of the response takes the history
along: the old stream and a copy of it with the new filters run side by side while one fades into
the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

import futurefill_kernels as ff


class Convolver:
    """Blocks of a signal with ``D`` channels through impulse responses, one at a time.

    responses: (D, L) each, equally long. fade: samples of a cross-fade.
    """

    def __init__(self, responses: Sequence[Tensor], *, fade: int = 2048) -> None:
        self.fade = fade
        self._stream = ff.FutureFillCache(responses[0], 1, None)
        # one stream for each response keeps what is prepared of it: a change only replays
        self._prepared = [self._stream.clone() for _ in responses]
        for stream, response in zip(self._prepared, responses, strict=True):
            stream.set_filters(response)
        self._responses = list(responses)
        self._next: ff.FutureFillCache | None = None
        self._faded = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the streams that run."""
        return self._stream.nbytes + (0 if self._next is None else self._next.nbytes)

    def change(self, index: int) -> None:
        """Fade to another response; a fade that is under way ends at once."""
        self._stream = self._stream if self._next is None else self._next
        self._next, self._faded = self._stream.clone(), 0
        self._next.set_filters(self._responses[index])

    def block(self, u: Tensor) -> Tensor:
        """The next samples. u: (D, n) -> (D, n)."""
        y = self._stream.run(u[None])[0]
        if self._next is not None:
            done = torch.arange(self._faded, self._faded + u.shape[1], dtype=u.dtype)
            weight = (done / self.fade).clamp(max=1)
            y += weight * (self._next.run(u[None])[0] - y)
            self._faded += u.shape[1]
            if self._faded >= self.fade:
                self._stream, self._next = self._next, None
        return y


def room(channels: int, seconds: float, rate: int, seed: int) -> Tensor:
    """(D, L): noise that decays by 60 dB, as the response of a room does."""
    length = int(seconds * rate)
    noise = torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))
    return noise * 10 ** (-3 * torch.arange(length) / length) / length**0.5


def blocks(signal: Tensor, size: int) -> Iterator[Tensor]:
    """(D, T) as (D, size), the last one shorter."""
    yield from signal.split(size, dim=1)


def main(argv: Sequence[str] | None = None) -> None:
    """Some seconds of noise through two rooms, a change every second, and what blocks take."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=48_000, help="samples per second")
    parser.add_argument("--seconds", type=float, default=4, help="of the signal")
    parser.add_argument("--response", type=float, default=0.5, help="seconds of a response")
    parser.add_argument("--block", type=int, default=64, help="samples that come at a time")
    args = parser.parse_args(argv)
    signal = torch.randn(
        2, int(args.seconds * args.rate), generator=torch.Generator().manual_seed(0)
    )
    convolver = Convolver([room(2, args.response, args.rate, seed) for seed in (1, 2)])
    taken, seconds, changes = 0, [], 0
    for u in blocks(signal, args.block):
        start = time.perf_counter()
        if taken // args.rate > changes:
            changes += 1
            convolver.change(changes % 2)
        convolver.block(u)
        seconds.append(time.perf_counter() - start)
        taken += u.shape[1]
    seconds.sort()
    limit = args.block / args.rate
    late = sum(s > limit for s in seconds) / len(seconds)
    typical, longest = 1e3 * seconds[len(seconds) // 2], 1e3 * seconds[-1]
    print(f"{taken} samples, {changes} changes, {convolver.nbytes / 2**20:.1f} MiB")
    print(
        f"a block of {args.block} has {1e3 * limit:.2f} ms and took {typical:.2f} (median), "
        f"{longest:.2f} at most; {late:.1%} took longer"
    )


if __name__ == "__main__":
    main()
