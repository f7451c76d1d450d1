"""Random programs for streams."""

from __future__ import annotations

import random
from typing import Any

from .program import Operation, Program
from .values import KINDS, VIEWS

MODELS = ("hyena", "hyena", "stu", "stu-full", "mixed")


#: Positions of endless streams that are taken at once: as many lie between two leaps.
FAR = 1100

#: What runs out of memory beside tokens and prompts.
FAILING = ("reset", "crop", "reorder", "branch", "save", "load", "refilter", "launch")


def plan(rng: random.Random, length: int, *, endless: bool = False) -> list[Any] | None:
    """Block sizes of random radices, where slack and where made spectra begin, or None for the
    planner's.
    """
    if rng.random() < 0.25:
        return None
    sizes = [rng.choice([1, 2, 3, 4, 5, 7, 8, 16, 24, 32, 48])]
    while sizes[-1] < length and rng.random() < 0.85:
        sizes.append(sizes[-1] * rng.choice([2, 2, 2, 3, 4, 5, 8]))
    slack = made = None
    if not endless and len(sizes) > 1 and rng.random() < 0.3:
        slack = rng.choice(sizes[1:])
    elif rng.random() < 0.25:
        made = rng.choice(sizes)
    return [sizes, slack, made]


def stream_program(rng: random.Random, impl: str, dtype: str, others: list[str]) -> Program:
    """A program for a FutureFillCache. others: implementations that saved states move to."""
    size = rng.choices(["tiny", "small", "large"], [5, 4, 1])[0]
    if impl == "triton":
        size = "tiny"
    most = {"tiny": 40, "small": 220, "large": 3000}[size]
    length = rng.randint(1, most)
    layers, batch = rng.choice([1, 1, 2, 3]), rng.randint(1, 5)
    groups, expand = rng.randint(1, 6), rng.choice([1, 1, 2, 3, 8])
    if size == "large":
        layers, batch, expand = 1, min(batch, 2), 1
    elif rng.random() < 0.1:
        groups, expand = rng.choice([(17, 1), (1, 17), (2, 16), (33, 1)])
    endless = rng.random() < 0.25
    setup = {
        "seed": rng.getrandbits(32), "impl": impl, "dtype": dtype, "batch": batch,
        "groups": groups, "expand": expand, "length": length, "endless": endless,
        "skip": rng.random() < 0.5,
        "taps": [
            rng.choice([1, rng.randint(1, length), length, length + rng.randint(1, 60)])
            for _ in range(layers)
        ],
        "plan": plan(rng, length, endless=endless), "values": rng.choice(KINDS),
        "memory": rng.choice(["speed", "speed", "small"]),
        "half_filters": rng.random() < 0.2,
        "wide": impl != "triton" and rng.random() < 0.15,
        "rollback": rng.choice([None, 0, *[rng.randint(0, min(length, 20))] * 2]),
    }  # fmt: skip
    if not setup["wide"]:
        setup["ring"] = _half(rng, impl, dtype)
    count = 6 if impl == "triton" else rng.randint(8, 40)
    leaps = endless and impl != "triton"  # a second for some steps
    operations: list[Operation] = []
    while len(operations) < count:
        if batch > 1 and rng.random() < 0.04:
            operations += _exchange(rng, batch)
        else:
            some = _operation(rng, batch, length, others, endless=endless, leaps=leaps)
            operations.append(some | _fails(rng, some["do"]))
    return Program("stream", setup, operations)


def _exchange(rng: random.Random, batch: int) -> list[Operation]:
    """Rows that are just past a firing, alike or apart, are exchanged and taken back over it."""
    past = rng.choice([0, 0, 1, 2, rng.randint(0, 12)])
    firing = {"level": rng.randrange(4), "past": past, "run": rng.random() < 0.3}
    found: list[Operation] = [{"do": "to_firing", **firing}]
    if rng.random() < 0.4:
        found.append({"do": "steps", "count": rng.randint(1, 4), "rows": _rows(rng, batch)})
    found.append({"do": "reorder", "rows": _circles(rng, batch)})
    if rng.random() < 0.2:
        found.append({"do": "branch", "how": "clone"})
    back = [past + rng.choice([1, 1, 2, 4]) for _ in range(batch)]
    found.append({"do": "crop", "back": back[:1] if rng.random() < 0.4 else back})
    return [*found, {"do": "steps", "count": past + rng.randint(1, 6)}]


def _fails(rng: random.Random, do: str) -> dict[str, Any]:
    """Whether it runs out of memory: at which allocation, and whether it is done again then."""
    if do not in FAILING or rng.random() >= 0.1:
        return {}
    whole = do not in ("branch", "save")  # what these leave out nobody misses
    return {"fail": [int(rng.expovariate(0.1)), int(whole or rng.random() < 0.5)]}


def _circles(rng: random.Random, batch: int) -> list[int]:
    """Rows that change their places; some stay."""
    rows, some = list(range(batch)), rng.sample(range(batch), rng.randint(min(2, batch), batch))
    for here, there in zip(some, [*some[1:], some[0]], strict=True):
        rows[here] = there
    return rows


def _reordered(rng: random.Random, batch: int) -> list[int]:
    """Copies, or exchanges."""
    if rng.random() < 0.5:
        return _circles(rng, batch)
    return [rng.randrange(batch) for _ in range(batch)]


def _stop(rng: random.Random, rate: float, ends: int) -> list[Any]:
    """Where a call is stopped, and what follows, one of so many; only what is out of memory goes
    on with its layer.
    """
    how = rng.choice(["interrupt", "interrupt", "memory", "memory", "late"])
    number = int(rng.expovariate(rate if how == "interrupt" else 5 * rate))
    return [number, rng.randrange(ends if how == "memory" else 2), how]


def _operation(
    rng: random.Random,
    batch: int,
    length: int,
    others: list[str],
    *,
    endless: bool,
    leaps: bool,
) -> Operation:
    kinds = {
        "steps": 8, "many": 5, "run": 1.5, "generate": 0.8, "reset": 1,
        "crop": 1.5, "reorder": 2, "branch": 1, "switch": 0.7, "save": 0.7, "load": 1, "bad": 1.5,
        "refilter": 1, "pieces": 1.3, "launch": 0.5, "inside": 0.5, "approach": 2 * leaps,
    }  # fmt: skip
    do = rng.choices(list(kinds), list(kinds.values()))[0]
    if do == "refilter":
        return {"do": do, "taps": rng.choice([1, rng.randint(1, length), length + 60])}
    if do == "approach":
        return {"do": do, "before": rng.choice([0, 1, 3, rng.randint(0, 40)])}
    if do in ("steps", "many", "run", "generate"):
        return _tokens(rng, do, batch, FAR if leaps and rng.random() < 0.2 else length)
    if do == "reset":
        return {"do": do, "rows": None if rng.random() < 0.3 else _rows(rng, batch)}
    if do == "crop":
        back = [rng.choice([0, 1, 2, rng.randint(0, length)]) for _ in range(batch)]
        return {"do": do, "back": back[:1] if rng.random() < 0.3 else back}
    if do == "reorder":
        return {"do": do, "rows": _reordered(rng, batch)}
    if do == "branch":
        return {"do": do, "how": rng.choice(["clone", "copy", "deepcopy", "pickle", "file"])}
    if do == "load" and rng.random() < 0.6:
        moved = plan(rng, length, endless=endless)
        wide = rng.random() < 0.3
        return {"do": do, "impl": rng.choice(others), "plan": moved, "wide_ring": wide}
    if do == "pieces":
        first = rng.choice([rng.randint(1, length), rng.randint(60, 700)])
        widths = [rng.choice([1, 3, 64, rng.randint(1, 300)]) for _ in range(rng.randint(1, 6))]
        some: Operation = {"do": do, "widths": [first, *widths], "rows": _rows(rng, batch)}
        return some | _ends(rng, 0.4)
    if do == "launch":
        return {"do": do, "history": rng.random() < 0.5}
    return {"do": do, "which": rng.randrange(1000)} if do in ("bad", "inside") else {"do": do}


def _tokens(rng: random.Random, do: str, batch: int, length: int) -> Operation:
    some = _ends(rng, 0.15)
    if do == "generate":
        following = rng.choice(["identity", "relu"])
        return {"do": do, "count": rng.randint(1, 12), "following": following, **some}
    if do == "many":
        longest = rng.choice([3, 10, length])
        lengths = [rng.randint(1, longest) for _ in range(batch)]
        some["lengths"] = lengths[:1] if rng.random() < 0.5 else lengths
    else:
        some["count"] = min(int(rng.expovariate(0.1)) + 1, length)
        if do == "steps":
            some["out"] = rng.random() < 0.2
        elif rng.random() < 0.2:
            some["count"] = rng.randint(1, length)
    if do != "run" and rng.random() < 0.4:
        some["rows"] = _rows(rng, batch)
        if do == "steps" and rng.random() < 0.4:
            some["rows"].insert(rng.randrange(len(some["rows"]) + 1), -1)
        some["form"] = rng.choice(["list", "list", "tuple", "tensor"])
    some["gates"] = rng.choice([0, 0, 0, 1, 2, 3])
    if rng.random() < 0.2:
        some["view"] = rng.choice(VIEWS)
    if do != "run" and rng.random() < 0.02:
        some["poison"] = rng.randrange(batch)
    if rng.random() < 0.06:
        which = rng.choice(["nan", "inf", "-inf"])
        some["plant"] = [rng.randrange(4), *(rng.randrange(1000) for _ in range(3)), which]
    return {"do": do, **some}


def _ends(rng: random.Random, stopped: float) -> dict[str, Any]:
    """What happens to a call: one of ``stopped`` is stopped inside."""
    some: dict[str, Any] = {}
    if rng.random() < stopped:
        some["stop"] = [rng.randrange(3), *_stop(rng, 0.05, 3)]
    elif rng.random() < 0.08:
        some["undo"] = True
    if rng.random() < (0.4 if "undo" in some else 0.04):
        behind = -1 if rng.random() < 0.7 else rng.randrange(3)
        some["refuse"] = [behind, *(rng.randrange(1000) for _ in range(rng.randint(1, 2)))]
    return some


def _rows(rng: random.Random, batch: int) -> list[int]:
    return rng.sample(range(batch), rng.randint(1, batch))


def model_program(rng: random.Random, impl: str, dtype: str, others: list[str]) -> Program:
    """A program for a DecodingCache. others: implementations that saved states move to."""
    batch, length = rng.randint(1, 4), rng.randint(1, 50)
    setup = {
        "seed": rng.getrandbits(32), "impl": impl, "dtype": dtype, "batch": batch,
        "length": length, "plan": plan(rng, length), "fused": rng.random() < 0.7,
        "model": rng.choice(MODELS), "rollback": rng.choice([None, 0, rng.randint(0, length)]),
        "memory": rng.choice(["speed", "small"]), "half_filters": rng.random() < 0.2,
        "ring": _half(rng, impl, dtype),
    }  # fmt: skip
    count = 5 if impl == "triton" else rng.randint(8, 40)
    operations = [_model_operation(rng, batch, length, others) for _ in range(count)]
    return Program("model", setup, operations)


def _half(rng: random.Random, impl: str, dtype: str) -> str | None:
    """What a ring holds inputs in, where that is not what arithmetic is done in."""
    if impl == "triton" or dtype == "float64" or rng.random() < 0.7:
        return None
    return rng.choice(["bfloat16", "float16"])


def _model_operation(rng: random.Random, batch: int, length: int, others: list[str]) -> Operation:
    kinds = {
        "tokens": 10, "reset": 1, "reorder": 1, "crop": 1.5, "branch": 1, "switch": 1, "save": 0.7,
        "load": 1,
    }  # fmt: skip
    do = rng.choices(list(kinds), list(kinds.values()))[0]
    if do == "tokens":
        some: dict[str, Any] = {"count": min(int(rng.expovariate(0.15)) + 1, 20)}
        if rng.random() < 0.3:
            longest = rng.choice([2, 8, 40])
            lengths = [rng.randint(1, longest) for _ in range(batch)]
            some |= {"count": 1, "lengths": lengths[:1] if rng.random() < 0.5 else lengths}
        if rng.random() < 0.3:
            some["rows"] = _rows(rng, batch)
        if rng.random() < 0.15:
            some["stop"] = _stop(rng, 0.02, 2)
        elif rng.random() < 0.2:
            some["last"] = True
        return {"do": do, **some}
    if do == "reset":
        return {"do": do, "rows": None if rng.random() < 0.3 else _rows(rng, batch)}
    if do == "reorder":
        return {"do": do, "rows": _reordered(rng, batch)}
    if do == "crop":
        back = [rng.choice([0, 1, 2, rng.randint(0, length)]) for _ in range(batch)]
        return {"do": do, "back": back}
    if do == "branch":
        return {"do": do, "how": rng.choice(["clone", "deepcopy", "pickle", "file"])}
    if do == "load" and rng.random() < 0.6:
        some = {"fused": rng.random() < 0.7, "plan": plan(rng, length)}
        return {"do": do, "impl": rng.choice(others), **some}
    return {"do": do}


def request_program(rng: random.Random, impl: str, dtype: str) -> Program:
    """A program for a Decoder."""
    batch, length = rng.randint(1, 4), rng.randint(1, 30)
    setup = {
        "seed": rng.getrandbits(32), "impl": impl, "dtype": dtype, "batch": batch,
        "length": length, "plan": plan(rng, length), "model": rng.choice(MODELS),
        "rollback": rng.choice([0, 0, None, rng.randint(0, length)]),
        "memory": rng.choice(["speed", "speed", "small"]), "half_filters": rng.random() < 0.2,
        "ring": _half(rng, impl, dtype),
    }  # fmt: skip
    count = 2 if impl == "triton" else rng.randint(2, 8)
    return Program("request", setup, [_request(rng, batch, length) for _ in range(count)])


def _request(rng: random.Random, batch: int, length: int) -> Operation:
    longest, width = rng.choice([2, 9, 30]), rng.choice([2, 3, 6])
    lengths = [rng.randint(1, longest) for _ in range(rng.randint(1, batch))]
    some: dict[str, Any] = {"do": "request", "lengths": lengths, "new": rng.randint(0, length)}
    some["how"] = rng.choice(["call", "call", "iterate", "decode"])
    some["form"] = rng.choice(["list", "right", "left"])
    some["width"] = width  # ids are drawn from so many: stops are met
    if rng.random() < 0.5:
        some["stop_ids"] = rng.sample(range(width), rng.randint(1, 2))
    if rng.random() < 0.6:
        some["stop"] = [
            [rng.randrange(width) for _ in range(rng.randint(1, 4))]
            for _ in range(rng.randint(1, 3))
        ]
        some["text"] = rng.random() < 0.4
    if rng.random() < 0.3:
        some["end"] = rng.randrange(length)
    some["greedy"] = rng.random() < 0.3
    return some
