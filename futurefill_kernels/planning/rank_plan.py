"""What a rank holds of a language model, and what a token takes, by the number of ranks."""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import Plan
from ..state.layout import Layout
from ..state.tensors import state_nbytes
from .capabilities import planned_for
from .cpu_cost import CpuCost
from .device import DeviceInfo
from .gpu_cost import GpuCost
from .link import Link
from .make_plan import make_plan
from .this_cpu import rates_of
from .workload import Workload

#: Features of a lag that an implicit filter's network begins with.
_FEATURES = 33
#: Of a Hyena of order 2: parts of its projection in, and taps of its short convolutions.
_PARTS, _SHORT_TAPS = 3, 3


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of an `ff.nn.LanguageModel` and of what it generates.

    length: positions ``N`` of the stream, and taps. itemsize: bytes of a weight and an activation.
    The rest as in `ff.nn.LanguageModelConfig`; an STU is the tensorised one.
    """

    channels: int
    layers: int
    mlp_hidden: int
    vocabulary: int
    length: int
    batch_size: int = 1
    mixer: str = "hyena"
    filter_hidden: int = 64
    spectral_filters: int = 24
    itemsize: int = 4

    def cannot_divide(self, ranks: int) -> list[str]:
        """Why ranks cannot hold the model, one sentence each."""
        sizes = {"channels": self.channels, "mlp_hidden": self.mlp_hidden}
        return [
            f"{ranks} ranks do not divide {name} = {size}"
            for name, size in sizes.items()
            if size % ranks
        ]

    def matrix_entries(self, ranks: int) -> int:
        """Weights of a rank that a token reads: projections, MLPs and the head."""
        d, own = self.channels, self.channels // ranks
        mixer = 4 * d * own if self.mixer == "hyena" else d * own
        return self.layers * (mixer + 3 * d * (self.mlp_hidden // ranks)) + self._ids(ranks) * d

    def weight_nbytes(self, ranks: int) -> int:
        """Bytes of a rank's parameters, those that every rank has included."""
        d, own, h = self.channels, self.channels // ranks, self.filter_hidden
        if self.mixer == "hyena":
            whole = (_FEATURES + 1) * h + (h + 1) * h + d  # the network, and a bias behind the sum
            short = _PARTS * (1 + _SHORT_TAPS)  # biases and taps
            cut = own * (short + h + 2)  # and output rows, decay and skip
        else:
            whole, cut = 0, own * self.spectral_filters
        rest = self.layers * (whole + cut + 2 * d) + d  # norms
        return self.itemsize * (self.matrix_entries(ranks) + rest)

    def state_nbytes(self, ranks: int, plan: Plan, layout: Layout, taps: int) -> int:
        """Bytes of a rank's `DecodingCache` under a plan for its channels, prepared filters
        included, when no call is under way. layout: of its implementation. taps: of a filter,
        without an end that is less than rounding.
        """
        own, hyena = self.channels // ranks, self.mixer == "hyena"
        long = state_nbytes(
            plan, layout, layers=self.layers, batch_size=self.batch_size,
            filters=(own, taps), skip=hyena,
        )  # fmt: skip
        of_a_tap = self.batch_size * self.itemsize + 4  # an input of every row, and the tap
        short = self.layers * _PARTS * own * _SHORT_TAPS * of_a_tap if hyena else 0
        return long + short + self.batch_size  # which rows have seen anything

    def workload(self, ranks: int) -> Workload:
        """The convolutions of a rank."""
        own = self.channels // ranks
        return Workload(
            self.length, self.length, own, self.batch_size, self.layers, own,
            impls=planned_for("auto", None),
        )  # fmt: skip

    def _ids(self, ranks: int) -> int:
        return -(-self.vocabulary // ranks)


@dataclass(frozen=True)
class RankPlan:
    """One of ``ranks``: bytes of weights and state, and seconds of a token by their causes.

    plan: None where the state alone is more than the device has; seconds are nan then.
    """

    ranks: int
    plan: Plan | None
    weights: int
    state: int
    seconds_weights: float
    seconds_convolutions: float
    seconds_link: float

    @property
    def nbytes(self) -> int:
        """Bytes of the rank."""
        return self.weights + self.state

    @property
    def seconds(self) -> float:
        """Of a token: nothing overlaps."""
        return self.seconds_weights + self.seconds_convolutions + self.seconds_link


def link_seconds(model: ModelSizes, ranks: int, link: Link) -> float:
    """Sums of a token: the embedding, one per mixer and MLP; and its logits, gathered."""
    rows = model.batch_size * model.itemsize
    x, logits = rows * model.channels, rows * model.vocabulary
    one = link.all_reduce(x, ranks)
    mixer = one if model.mixer == "hyena" else link.all_gather(x, ranks)
    return one + model.layers * (mixer + one) + link.all_gather(logits, ranks)


def rank_plan(model: ModelSizes, ranks: int, device: DeviceInfo, link: Link) -> RankPlan:
    """What each of ranks holds and takes, under a plan for its channels.

    Weights are read once per token at the device's bandwidth. ValueError where ranks do not divide
    the model.
    """
    reasons = model.cannot_divide(ranks)
    if reasons:
        raise ValueError("; ".join(reasons))
    workload, weights = model.workload(ranks), model.weight_nbytes(ranks)
    own = workload.channels
    read = model.itemsize * model.matrix_entries(ranks) / device.dram_bytes_per_second
    sent = link_seconds(model, ranks, link) if ranks > 1 else 0.0
    try:
        plan = make_plan(
            workload.length, workload.channels, batch_size=workload.batch_size,
            layers=workload.layers, device=device,
        )  # fmt: skip
    except ValueError:
        nothing = float("nan")
        return RankPlan(ranks, None, weights, 0, read, nothing, sent)
    cost = (
        GpuCost(workload, device)
        if device.kind == "cuda"
        else CpuCost(workload, rates_of(device, probed=False))
    )
    state = model.state_nbytes(ranks, plan, Layout.padded(own, own, plan.slots), model.length)
    return RankPlan(ranks, plan, weights, state, read, cost.plan(plan), sent)


def rank_plans(model: ModelSizes, most: int, device: DeviceInfo, link: Link) -> list[RankPlan]:
    """For 1, 2, 4 ... ranks up to most that divide the model, and for most itself."""
    counts = {1 << n for n in range(most.bit_length()) if 1 << n <= most} | {most}
    return [
        rank_plan(model, ranks, device, link)
        for ranks in sorted(counts)
        if ranks == most or not model.cannot_divide(ranks)
    ]
