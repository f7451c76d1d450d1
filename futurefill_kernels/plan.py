"""Plans: which blocks of a streamed convolution are added when.

A plan is a mixed-radix factorisation of the context length (docs/algorithm.md). It is a frozen
record of numbers; nothing here touches a tensor, and every choice that depends on a size is made
here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from .checks import check_dtype, check_filters_dtype, dtype_names, integer, integers
from .checks import state_dtype as arithmetic_dtype
from .level import Level, LevelWork, ramp_sum, transform_length
from .window import Window


@dataclass(frozen=True)
class Plan:
    """Block sizes for streaming ``length`` tokens through filters of ``filter_length`` taps.

    length: tokens the stream can take, ``N``; None: any number, in the constant memory of `Window`.
        An endless plan has no slack.
    block_sizes: ``T_0 < T_1 < ... < T_m``, each dividing the next. ``T_0`` is the block of the
        short-range convolution; a block size ``>= length`` means that no future fill ever fires.
    filter_length: taps that may be non-zero; defaults to ``length``. An endless plan needs it.
    slack_from: blocks of this size and larger have slack: their outputs are due one block of the
        level below later, and their work is spread over the steps until then. None: no slack.
    rollback: of an endless plan, the positions that `FutureFillCache` can take back; it sets it.
    made_from: levels of blocks of this size and larger make filter spectra when they fire, rather
        than hold them: half a firing's work for most of the memory, since the largest block holds
        half of all spectra and fires once. None: all are held. Not with slack, where one step would
        make them all.

    Raises ValueError when the sizes are not positive or do not divide each other, or when
    ``slack_from`` is not one of the block sizes after the first, ``made_from`` none of them;
    TypeError for what is no whole number.
    """

    length: int | None
    block_sizes: tuple[int, ...]
    filter_length: int | None = None
    slack_from: int | None = None
    rollback: int = 0
    made_from: int | None = None

    def __post_init__(self) -> None:
        sizes = tuple(integers("block_sizes", self.block_sizes))
        object.__setattr__(self, "block_sizes", sizes)
        for name in ("length", "filter_length", "slack_from", "rollback", "made_from"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, integer(name, getattr(self, name)))
        if self.length is not None and self.length < 1:
            raise ValueError(f"expected length None or >= 1, got {self.length}")
        taps = self.length if self.filter_length is None else self.filter_length
        if taps is None:
            raise ValueError("expected filter_length with length None, got None")
        if self.length is not None:
            taps = min(taps, self.length)
        object.__setattr__(self, "filter_length", taps)
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
        if self.length is None and self.slack_from is not None:
            raise ValueError(
                "expected slack_from None with length None, for what slack has under way is built "
                f"again from all inputs since the prompt; got {self.slack_from}"
            )
        if self.rollback < 0 or (self.rollback and self.length is not None):
            raise ValueError(
                f"expected rollback >= 0 with length None, else 0, got {self.rollback}"
            )
        if self.made_from is not None and self.made_from not in sizes:
            raise ValueError(
                f"expected made_from to be one of the block sizes {sizes}, got {self.made_from}"
            )
        if self.made_from is not None and self.slack_from is not None:
            raise ValueError(
                f"expected made_from or slack_from, got made_from={self.made_from} and "
                f"slack_from={self.slack_from}: levels with slack hold their filter spectra"
            )

    @cached_property
    def window(self) -> Window:
        """Where the slots of an endless stream are used again."""
        assert self.filter_length is not None
        block = self.block_sizes[-1] if self.filter_length > 1 else self.block_sizes[0]
        return Window.of(block, self.filter_length, self.rollback)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels that can fire within ``length``, smallest block first."""
        assert self.filter_length is not None
        taps = self.filter_length
        slack_from = self.slots if self.slack_from is None else self.slack_from
        made_from = self.slots if self.made_from is None else self.made_from
        # (block, late) of the levels with outputs and taps left
        late = 0
        sizes: list[tuple[int, int]] = []
        for index, block in enumerate(self.block_sizes):
            if block >= slack_from:
                late += self.block_sizes[index - 1]
            if block + late < self.slots and late + 1 < taps:
                sizes.append((block, late))
        levels = []
        kept_offset = spectra_offset = 0
        for index, (block, late) in enumerate(sizes):
            last = index == len(sizes) - 1
            after = (self.slots, late) if last else sizes[index + 1]
            radix = -(-(self.slots - late) // block) if last else after[0] // block
            extra = (after[1] - late) // block
            n_spectra = min(radix - 1 + extra, -(-(taps - late) // block))
            steps = late - sizes[index - 1][1] if index else 0
            kept, transform = max(n_spectra - 1, 0), transform_length(block)
            made = block >= made_from
            levels.append(
                Level(
                    index, block, radix, transform, n_spectra, kept, late, steps, extra,
                    kept_offset, spectra_offset, made,
                )
            )  # fmt: skip
            kept_offset += kept * transform
            spectra_offset += 0 if made else n_spectra * transform
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
    def slots(self) -> int:
        """Positions that a state has room for: ``N``, or the slots of an endless stream."""
        return self.window.slots if self.length is None else self.length

    @property
    def end(self) -> int:
        """Slot from which no step is taken: ``N``, or where an endless stream's window ends."""
        return self.window.end if self.length is None else self.length

    def place(self, position: int) -> int:
        """Slot of a position, the window's end where it is one."""
        if self.length is not None or position <= self.window.end:
            return position
        return self.window.end - (self.window.end - position) % self.window.period

    @property
    def kept_rows(self) -> int:
        """Complex rows of kept input spectra, per channel of one batch row."""
        return sum(level.kept * level.transform for level in self.levels)

    @property
    def spectra_rows(self) -> int:
        """Complex rows of filter spectra that are held, per filter row."""
        held = (level for level in self.levels if not level.made)
        return sum(level.n_spectra * level.transform for level in held)

    @property
    def base(self) -> int:
        """Block of the short-range convolution, ``T_0`` or the whole context if that is shorter."""
        return min(self.block_sizes[0], self.slots)

    @property
    def open_slots(self) -> int:
        """Slots of the open block of a row whose ring is of 16 bits: ``T_0``, but all where no
        level fires at its ends.
        """
        return self.base if self.levels else -(-self.slots // self.base) * self.base

    @property
    def flops_per_token(self) -> float:
        """Real operations per token and channel, averaged over the ``N`` tokens, of an endless
        stream over those that follow its beginning.

        A tap counts 2, a complex transform of length n ``5 n log2 n``, a spectrum product 6 and its
        sum 2 per complex entry, an addition to a pending output 1.
        """
        return self._per_token(Plan._flops)

    def _flops(self) -> int:
        """Operations of the whole length."""
        assert self.filter_length is not None
        full, rest = divmod(self.slots, self.base)
        taps = full * ramp_sum(self.base, self.filter_length) + ramp_sum(rest, self.filter_length)
        return 2 * taps + sum(map(self.operations, self.levels))

    def _per_token(self, count: Callable[[Plan], int]) -> float:
        """The mean over the length of what a plan counts in it; of an endless stream over a period
        after its beginning.
        """
        if self.length is not None:
            return count(self) / self.length
        end, period = self.window.end, self.window.period
        short, long = (replace(self, length=n, rollback=0) for n in (end, end + period))
        return (count(long) - count(short)) / period

    def _rate(self, count: Callable[[Plan, Level], int], level: Level) -> float:
        """The same of one level."""
        return self._per_token(lambda plan: count(plan, plan.levels[level.index]))

    def bytes_per_channel(
        self,
        state_dtype: torch.dtype = torch.float32,
        filters_dtype: torch.dtype | None = None,
    ) -> int:
        """Bytes for one channel of one row with a filter of its own.

        Of values of state_dtype: one for each slot of the ring, two for each complex entry of kept
        input spectra and filter spectra, one for each tap and the first ``T_0`` once more. With a
        state of 16 bits all of these but the ring are float32, and so is the open block. Taps are
        of filters_dtype where it is given. ``state.tensors.state_parts`` has the exact sum for a
        cache. Raises TypeError as `FutureFillCache` does.
        """
        assert self.filter_length is not None
        slot = check_dtype(state_dtype, "state_dtype").itemsize
        arithmetic = arithmetic_dtype(state_dtype)
        value, tap = arithmetic.itemsize, check_filters_dtype(filters_dtype, arithmetic).itemsize
        values = self.base + 2 * (self.kept_rows + self.spectra_rows)
        if slot < value:
            values += self.open_slots
        return slot * self.slots + tap * self.filter_length + value * values

    def work(self, level: Level) -> LevelWork:
        """Firings, spectrum products and outputs of a level over the whole length."""
        if not level.plain:
            starts = range(level.block + level.late, self.slots, level.block)
            found = [level.products(n) for n in range(1, len(starts) + 1)]
            outputs = sum(min(level.block, self.slots - start) for start in starts)
            return LevelWork(len(found), sum(found), outputs)
        span = level.block * level.radix
        last = level.index == len(self.levels) - 1
        groups, rest = (1, 0) if last else divmod(self.slots, span)
        partial = max(-(-rest // level.block) - 1, 0)  # firings in the unfinished group
        firings = groups * (level.radix - 1) + partial
        products = groups * ramp_sum(level.radix - 1, level.n_spectra)
        products += ramp_sum(partial, level.n_spectra)
        outputs = groups * (level.radix - 1) * level.block
        if last:
            outputs = self.slots - level.block
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

    def explain(
        self,
        state_dtype: torch.dtype = torch.float32,
        filters_dtype: torch.dtype | None = None,
    ) -> str:
        """A table of the levels, for people; dtypes as of `bytes_per_channel`."""
        lines = [
            f"{self.length or 'any number of'} tokens, filters of {self.filter_length} taps",
            f"short-range convolution: the taps inside blocks of {self.base}",
            f"{'block':>8} {'radix':>6} {'fires every':>12} {'operations':>11} {'spectra':>10} "
            f"{'kept':>10}",
            f"{'':>8} {'':>6} {'(tokens)':>12} {'(/token)':>11} {'(bytes)':>10} {'(bytes)':>10}",
        ]
        for level in self.levels:
            often, work = (self._rate(count, level) for count in (Plan.firings, Plan.operations))
            spectra, kept = (8 * level.transform * count for count in (level.n_spectra, level.kept))
            held = "made" if level.made else spectra
            lines.append(
                f"{level.block:>8} {level.radix:>6} {1 / often if often else self.slots:>12.1f} "
                f"{work:>11.1f} {held:>10} {kept:>10}"
                + (f"   spread over {level.steps} steps" if level.steps else "")
            )
        lines.append(
            f"per token and channel: {self.flops_per_token:.0f} operations; "
            f"per {dtype_names((state_dtype,))} channel: "
            f"{self.bytes_per_channel(state_dtype, filters_dtype)} bytes"
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
            and p + level.late < self.slots
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
            and p - p % level.block + level.late < self.slots
            and level.products(p // level.block)
        )
