"""Plans: which blocks of a streamed convolution are added when.

A plan is a mixed-radix factorisation of the context length (docs/algorithm.md). It is a frozen
record of numbers; nothing here touches a tensor, and every choice that depends on a size is made
here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


@dataclass(frozen=True)
class Level:
    """One block size of a plan.

    index: position in ``Plan.levels``, 0 for the smallest block.
    block: block size ``T_l`` in tokens.
    radix: blocks per group, ``b_l = T_{l+1} / T_l``; for the last level, blocks in the context.
    transform: complex transform length, the smallest power of two ``>= block``.
    n_spectra: filter spectra ``H_1 .. H_K`` that are not zero.
    kept: input spectra kept between firings; block ``j`` of a group lives in slot ``j % kept``.
    late: the outputs of a firing begin this many tokens after the blocks that it reads, ``s_l``.
    steps: steps over which the work of a firing may be spread; 0 where it is due at once.
    extra: blocks covered here because the level above is late, ``(s_{l+1} - s_l) / T_l``.
    kept_offset, spectra_offset: where its kept input spectra and its filter spectra start among
        those of all levels, in complex rows.
    """

    index: int
    block: int
    radix: int
    transform: int
    n_spectra: int
    kept: int
    late: int = 0
    steps: int = 0
    extra: int = 0
    kept_offset: int = 0
    spectra_offset: int = 0

    @property
    def plain(self) -> bool:
        """Whether its groups end where a larger level fires, as everywhere without slack."""
        return self.late == self.extra == 0

    def products(self, n: int) -> int:
        """Spectrum products of the firing after ``n`` blocks; 0 where it does not fire."""
        groups = max((n - self.extra) // self.radix, 0)
        return min(n - groups * self.radix, self.n_spectra)


class LevelWork(NamedTuple):
    """What a level does over the whole length, per channel.

    firings: how often it fires. products: spectrum products of all firings. outputs: pending
    outputs that they add to.
    """

    firings: int
    products: int
    outputs: int


def transform_length(block: int) -> int:
    """Length of a block's complex transform: the smallest power of two ``>= block``."""
    return 1 << (block - 1).bit_length()


def ramp_sum(count: int, most: int) -> int:
    """``min(1, most) + ... + min(count, most)``: taps that the first steps of a block read of a
    filter of ``most`` taps, spectrum products of the first firings of a group.
    """
    ramp = min(count, most)
    return ramp * (ramp + 1) // 2 + (count - ramp) * most


@dataclass(frozen=True)
class Plan:
    """Block sizes for streaming ``length`` tokens through filters of ``filter_length`` taps.

    length: tokens the stream can take, ``N``.
    block_sizes: ``T_0 < T_1 < ... < T_m``, each dividing the next. ``T_0`` is the block of the
        short-range convolution; a block size ``>= length`` means that no future fill ever fires.
    filter_length: taps that may be non-zero; defaults to ``length``.
    slack_from: blocks of this size and larger have slack: their outputs are due one block of the
        level below later, and their work is spread over the steps until then. None: no slack.

    Raises ValueError when the sizes are not positive or do not divide each other, or when
    ``slack_from`` is not one of the block sizes after the first.
    """

    length: int
    block_sizes: tuple[int, ...]
    filter_length: int | None = None
    slack_from: int | None = None

    def __post_init__(self) -> None:
        sizes = tuple(int(t) for t in self.block_sizes)
        object.__setattr__(self, "block_sizes", sizes)
        taps = self.length if self.filter_length is None else min(self.filter_length, self.length)
        object.__setattr__(self, "filter_length", taps)
        if self.length < 1:
            raise ValueError(f"expected length >= 1, got {self.length}")
        if taps < 1:
            raise ValueError(f"expected filter_length >= 1, got {self.filter_length}")
        if not sizes or sizes[0] < 1:
            raise ValueError(f"expected block_sizes to be positive integers, got {sizes}")
        for small, large in itertools.pairwise(sizes):
            if large <= small or large % small:
                raise ValueError(
                    f"expected every block size to be a multiple of the one before, "
                    f"got {small} then {large} in {sizes}"
                )
        if self.slack_from is not None and self.slack_from not in sizes[1:]:
            raise ValueError(
                f"expected slack_from to be one of the block sizes after the first {sizes[1:]}, "
                f"got {self.slack_from}"
            )

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels that can fire within ``length``, smallest block first."""
        assert self.filter_length is not None
        taps = self.filter_length
        slack_from = self.length if self.slack_from is None else self.slack_from
        # (block, late) of the levels with outputs and taps left
        late = 0
        sizes: list[tuple[int, int]] = []
        for index, block in enumerate(self.block_sizes):
            if block >= slack_from:
                late += self.block_sizes[index - 1]
            if block + late < self.length and late + 1 < taps:
                sizes.append((block, late))
        levels = []
        kept_offset = spectra_offset = 0
        for index, (block, late) in enumerate(sizes):
            last = index == len(sizes) - 1
            after = (self.length, late) if last else sizes[index + 1]
            radix = -(-(self.length - late) // block) if last else after[0] // block
            extra = (after[1] - late) // block
            n_spectra = min(radix - 1 + extra, -(-(taps - late) // block))
            steps = late - sizes[index - 1][1] if index else 0
            kept, transform = max(n_spectra - 1, 0), transform_length(block)
            levels.append(
                Level(
                    index, block, radix, transform, n_spectra, kept, late, steps, extra,
                    kept_offset, spectra_offset,
                )
            )  # fmt: skip
            kept_offset += kept * transform
            spectra_offset += n_spectra * transform
        return tuple(levels)

    @classmethod
    def epoched(cls, length: int, block_size: int, filter_length: int | None = None) -> Plan:
        """Epoched-FutureFill: one level (arXiv 2410.03766, Algorithm 2)."""
        return cls(length, (block_size,), filter_length)

    @classmethod
    def continuous(cls, length: int, base: int, filter_length: int | None = None) -> Plan:
        """Continuous-FutureFill: radix 2 from ``base`` upwards (arXiv 2410.03766, Algorithm 3)."""
        sizes = [base]
        while sizes[-1] * 2 < length:
            sizes.append(sizes[-1] * 2)
        return cls(length, tuple(sizes), filter_length)

    @property
    def kept_rows(self) -> int:
        """Complex rows of kept input spectra, per channel of one batch row."""
        return sum(level.kept * level.transform for level in self.levels)

    @property
    def spectra_rows(self) -> int:
        """Complex rows of filter spectra, per filter row."""
        return sum(level.n_spectra * level.transform for level in self.levels)

    @property
    def base(self) -> int:
        """Block of the short-range convolution, ``T_0`` or the whole context if that is shorter."""
        return min(self.block_sizes[0], self.length)

    @property
    def flops_per_token(self) -> float:
        """Real operations per token and channel, averaged over the ``N`` tokens.

        A tap counts 2, a complex transform of length n ``5 n log2 n``, a spectrum product 6 and its
        sum 2 per complex entry, an addition to a pending output 1.
        """
        assert self.filter_length is not None
        full, rest = divmod(self.length, self.base)
        taps = full * ramp_sum(self.base, self.filter_length) + ramp_sum(rest, self.filter_length)
        return (2 * taps + sum(map(self.operations, self.levels))) / self.length

    @property
    def bytes_per_channel(self) -> int:
        """Bytes for one float32 channel of one row with a filter of its own.

        Ring ``4 N``, kept input spectra and filter spectra 8 per complex entry, taps 4 each, and
        the first ``T_0`` once more. ``state.tensors.state_parts`` has the exact sum for a cache.
        """
        assert self.filter_length is not None
        spectra = 8 * (self.kept_rows + self.spectra_rows)
        return 4 * (self.length + self.filter_length + self.base) + spectra

    def work(self, level: Level) -> LevelWork:
        """Firings, spectrum products and outputs of a level over the whole length."""
        if not level.plain:
            starts = range(level.block + level.late, self.length, level.block)
            found = [level.products(n) for n in range(1, len(starts) + 1)]
            outputs = sum(min(level.block, self.length - start) for start in starts)
            return LevelWork(len(found), sum(found), outputs)
        span = level.block * level.radix
        last = level.index == len(self.levels) - 1
        groups, rest = (1, 0) if last else divmod(self.length, span)
        partial = max(-(-rest // level.block) - 1, 0)  # firings in the unfinished group
        firings = groups * (level.radix - 1) + partial
        products = groups * ramp_sum(level.radix - 1, level.n_spectra)
        products += ramp_sum(partial, level.n_spectra)
        outputs = groups * (level.radix - 1) * level.block
        if last:
            outputs = self.length - level.block
        elif partial:
            outputs += rest - level.block
        return LevelWork(firings, products, outputs)

    def firings(self, level: Level) -> int:
        """How often a level fires in ``length`` tokens."""
        return self.work(level).firings

    def operations(self, level: Level) -> int:
        """Real operations of a level per channel over the whole length, as ``flops_per_token``
        counts them.
        """
        work, n = self.work(level), level.transform
        transforms = 2 * 5 * n * (n.bit_length() - 1)
        # a firing's first product has no sum
        return work.firings * (transforms - 2 * n) + work.products * 8 * n + work.outputs

    def explain(self) -> str:
        """A table of the levels, for people."""
        lines = [
            f"{self.length} tokens, filters of {self.filter_length} taps",
            f"short-range convolution: the taps inside blocks of {self.base}",
            f"{'block':>8} {'radix':>6} {'fires every':>12} {'operations':>11} {'spectra':>10} "
            f"{'kept':>10}",
            f"{'':>8} {'':>6} {'(tokens)':>12} {'(/token)':>11} {'(bytes)':>10} {'(bytes)':>10}",
        ]
        for level in self.levels:
            every = self.length / max(self.firings(level), 1)
            spectra, kept = (8 * level.transform * count for count in (level.n_spectra, level.kept))
            lines.append(
                f"{level.block:>8} {level.radix:>6} {every:>12.1f} "
                f"{self.operations(level) / self.length:>11.1f} {spectra:>10} {kept:>10}"
                + (f"   spread over {level.steps} steps" if level.steps else "")
            )
        lines.append(
            f"per token and channel: {self.flops_per_token:.0f} operations; "
            f"per float32 channel: {self.bytes_per_channel} bytes"
        )
        return "\n".join(lines)

    def levels_at(self, t: int) -> tuple[int, ...]:
        """Levels that fire after the step at position ``t``, largest first: at most one without
        slack.
        """
        p = t + 1
        return tuple(
            level.index
            for level in reversed(self.levels)
            if p % level.block == 0
            and p + level.late < self.length
            and level.products(p // level.block)
        )

    def work_at(self, t: int) -> tuple[tuple[int, int], ...]:
        """What is done after the step at position ``t``, largest blocks first.

        Pairs (level, share): a level that is due at once does all of its firing, share 0; of one
        with slack it is share ``0 .. steps - 1`` of the firing that is under way.
        """
        p = t + 1
        return tuple(
            (level.index, p % level.block)
            for level in reversed(self.levels)
            if p % level.block < max(level.steps, 1)
            and p >= level.block
            and p - p % level.block + level.late < self.length
            and level.products(p // level.block)
        )
