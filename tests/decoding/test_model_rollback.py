"""Positions of a model's stream are taken back: what follows is as if they had never been."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from futurefill_kernels.nn.language_model import LanguageModel, LanguageModelConfig

BATCH, PROMPT, NEW, IDS = 3, 5, 40, 13
#: How far two ways to the same sums may be apart, of the largest logit.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.06}


class Mixed(nn.Module):
    """Long filters of two shapes, and short convolutions of 1 and 5 taps."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(IDS, 8)
        self.short = ff.nn.ShortConv(8, 5)
        self.long = ff.nn.LongConv(8, 30, groups=2)
        self.mixer = ff.nn.Hyena(8, 60, order=3)
        self.last = ff.nn.ShortConv(8, 1)
        self.head = nn.Linear(8, IDS)

    def forward(self, ids, cache=None):
        x = self.embedding(ids)
        x = x + self.short(x.transpose(1, 2), cache).transpose(1, 2)
        x = x + self.long(x, cache)
        x = x + self.mixer(x, cache)
        return self.head(self.last(x.transpose(1, 2), cache).transpose(1, 2))


def make(name, dtype):
    torch.manual_seed(3)
    if name == "mixed":
        return Mixed().to(dtype).eval()
    model = LanguageModel(LanguageModelConfig(IDS, 60, 8, 2, 16, 8, mixer=name))
    with torch.no_grad():  # or the output is close to the input
        model.embedding.weight *= 50
        for module in model.modules():
            if isinstance(module, ff.nn.Hyena):
                module.in_proj.weight *= 4
                module.out_proj.weight *= 8
    return model.to(dtype).eval()


def random(seed):
    return torch.Generator().manual_seed(seed)


def new_ids(generator, rows, count):
    return torch.randint(0, IDS, (rows, count), generator=generator)


class Seen:
    """A cache, and what every row has seen since the prompt."""

    def __init__(self, model, impl, fused, rollback, **options):
        self.model, self.prompt = model, new_ids(random(1), BATCH, PROMPT)
        self.options = {"impl": impl, "fused": fused, **options}
        self.cache = ff.DecodingCache(model, BATCH, NEW, rollback=rollback, **self.options)
        model(self.prompt, cache=self.cache)
        self.rows = [[] for _ in range(BATCH)]

    def take(self, ids, rows=None):
        """ids: (R, T). Returns logits of the last position, (R, V)."""
        with self.cache.select(rows):
            logits = self.model(ids, cache=self.cache)
        for row, new in zip(range(BATCH) if rows is None else rows, ids.tolist(), strict=True):
            self.rows[row] += new
        return logits[:, -1]

    def crop(self, lengths):
        self.cache.crop(lengths)
        self.rows = [row[:n] for row, n in zip(self.rows, lengths, strict=True)]

    def expect_what_never_saw(self, steps=3):
        """The next outputs are those of a cache that has seen only what is left."""
        other = ff.DecodingCache(self.model, BATCH, NEW, **self.options)
        self.model(self.prompt, cache=other)
        for row, ids in enumerate(self.rows):
            with other.select([row]):
                for token in ids:
                    self.model(torch.tensor([[token]]), cache=other)
        assert torch.equal(self.cache.positions, other.positions)
        for ids in new_ids(random(2), BATCH, steps).T:
            expected = self.model(ids[:, None], cache=other)[:, -1]
            got = self.take(ids[:, None])
            error = (got - expected).abs().max() / expected.abs().max()
            assert error <= TOLERANCE[expected.dtype]


CASES = [
    (name, dtype, fused)
    for name in ("hyena", "stu", "mixed")
    for dtype in TOLERANCE
    for fused in ((True, False) if name != "mixed" else (False,))
]


@pytest.mark.parametrize("rollback", [1, 4, 11, None])
@pytest.mark.parametrize(("name", "dtype", "fused"), CASES)
@torch.no_grad()
def test_random_programs(impl, name, dtype, fused, rollback):
    """Tokens of all rows and of some, chunks, and lengths of every row, in any order."""
    model, generator = make(name, dtype), random(7)
    seen = Seen(model, impl, fused, rollback)
    assert bool(seen.cache.not_fused) is not (fused and impl == "cpu" and name != "mixed")

    def number(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    seen.take(new_ids(generator, BATCH, 1))  # the prompt ends: chunks are of the stream
    oldest = [0] * BATCH
    for _ in range(22):
        here = [len(row) for row in seen.rows]
        kind, room = number(0, 5), NEW - 4 - max(here)
        rows = [None, [number(0, BATCH)], [2, 0]][number(0, 3)]
        if kind < 3 and room > 0:
            count = 1 if kind else number(1, min(room, 7) + 1)
            seen.take(new_ids(generator, BATCH if rows is None else len(rows), count), rows)
        else:
            reach = [
                n if rollback is None else min(rollback, n - o)
                for n, o in zip(here, oldest, strict=True)
            ]
            seen.crop([n - number(0, r + 1) for n, r in zip(here, reach, strict=True)])
            if rollback is not None:
                oldest = [
                    max(o, n - rollback) if len(row) < n else o
                    for o, n, row in zip(oldest, here, seen.rows, strict=True)
                ]
    seen.expect_what_never_saw()


@pytest.mark.parametrize("rollback", [6, None])
@pytest.mark.parametrize(("name", "dtype", "fused"), CASES)
@torch.no_grad()
def test_all_that_can_be_taken_back(impl, name, dtype, fused, rollback):
    """To the end of the prompt, and across it twice."""
    seen = Seen(make(name, dtype), impl, fused, rollback)
    for count in (6, 3):
        for ids in new_ids(random(4), BATCH, count).T:
            seen.take(ids[:, None])
        seen.crop([0] * BATCH)
    seen.expect_what_never_saw()


@pytest.mark.parametrize(("name", "dtype", "fused"), CASES)
@torch.no_grad()
def test_a_crop_after_a_token_that_stopped(impl, monkeypatch, name, dtype, fused):
    """The token that was taken back had moved what a crop reads."""
    seen = Seen(make(name, dtype), impl, fused, 3)
    for ids in new_ids(random(5), BATCH, 8).T:
        seen.take(ids[:, None])
    end = "_logits_of" if seen.cache.fused is not None else None

    def fails(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as inside:
        if end is not None:
            inside.setattr(type(seen.cache.fused), end, fails)
        else:
            last = [m for m in seen.model.modules() if isinstance(m, nn.Linear | nn.RMSNorm)][-1]
            inside.setattr(last, "forward", fails)
        with pytest.raises(KeyboardInterrupt):
            seen.take(torch.zeros(BATCH, 1, dtype=torch.int64))
    seen.cache.abort()
    seen.crop([5, 8, 6])
    seen.expect_what_never_saw()


@pytest.mark.parametrize("rollback", [0, 4])
@torch.no_grad()
def test_further_back_is_refused_before_anything_changes(impl, rollback):
    seen = Seen(make("hyena", torch.float32), impl, True, rollback)
    for ids in new_ids(random(6), BATCH, 9).T:
        seen.take(ids[:, None])
    message = f"expected length >= {9 - rollback} for row 1, which is at 9: with rollback = "
    with pytest.raises(ValueError, match=message):
        seen.cache.crop([9, 8 - rollback, 9])
    with pytest.raises(ValueError, match=r"\(B,\) = \(3,\)"):
        seen.cache.crop([9, 9])
    seen.expect_what_never_saw()
    with pytest.raises(ValueError, match=r"rollback in 0 \.\. max_new_tokens = 40, or None"):
        ff.DecodingCache(seen.model, BATCH, NEW, rollback=NEW + 1)
    with pytest.raises(TypeError, match="rollback"):
        ff.DecodingCache(seen.model, BATCH, NEW, rollback=2.5)


@torch.no_grad()
def test_crop_inside_a_call_is_refused(impl):
    model = make("mixed", torch.float32)
    seen = Seen(model, impl, False, 4)
    seen.take(new_ids(random(8), BATCH, 1))
    seen.cache.short_conv(model.short, torch.zeros(BATCH, 8, 1))
    with pytest.raises(ValueError, match="crop needs a finished call of the model"):
        seen.cache.crop(0)
    seen.cache.abort()
    seen.expect_what_never_saw()


@torch.no_grad()
def test_reorder_and_clone_keep_the_way_back(impl):
    seen = Seen(make("hyena", torch.bfloat16), impl, True, 5)
    for ids in new_ids(random(9), BATCH, 7).T:
        seen.take(ids[:, None])
    seen.cache.reorder([2, 0, 2])
    seen.rows = [seen.rows[row] for row in (2, 0, 2)]
    seen.prompt = seen.prompt[[2, 0, 2]]
    original, seen.cache = seen.cache, seen.cache.clone()
    original.reset()
    seen.crop([4, 2, 7])
    seen.expect_what_never_saw()


@torch.no_grad()
def test_a_decoder_goes_back_over_what_it_has_drawn():
    model = make("hyena", torch.float32)
    decoder = ff.Decoder(model, 1, 12, rollback=6)
    prompt = new_ids(random(10), 1, 6)
    drawn = decoder(prompt, 9)
    decoder.cache.crop(3)
    again = [drawn[0, 3]]
    for _ in range(5):
        logits = model(again[-1].view(1, 1), cache=decoder.cache)
        again.append(logits[0, -1].argmax())
    assert [int(x) for x in again] == drawn[0, 3:].tolist()


def prepared(impl, name, dtype, fused, rollback=0):
    seen = Seen(make(name, dtype), impl, fused, rollback)
    seen.take(new_ids(random(11), BATCH, 1))
    seen.take(new_ids(random(12), BATCH, 6))
    seen.take(new_ids(random(13), 2, 1), [0, 2])
    return seen


@pytest.mark.parametrize("rollback", [0, None])
@pytest.mark.parametrize(("name", "dtype", "fused"), CASES)
@torch.no_grad()
def test_a_saved_state_goes_on_elsewhere(impl, tmp_path, name, dtype, fused, rollback):
    """In another cache that has seen other things, by way of a file."""
    seen = prepared(impl, name, dtype, fused, rollback)
    torch.save(seen.cache.state_dict(), tmp_path / "state.pt")
    other = Seen(seen.model, impl, not fused, rollback)
    other.take(new_ids(random(14), BATCH, 1))
    other.cache.load_state_dict(torch.load(tmp_path / "state.pt"))
    other.rows = seen.rows
    seen.cache.reset()
    other.expect_what_never_saw()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle])
@pytest.mark.parametrize(("name", "dtype", "fused"), CASES)
@torch.no_grad()
def test_copies_go_their_own_way(impl, name, dtype, fused, copied):
    seen = prepared(impl, name, dtype, fused)
    if copied is pickle:
        seen.model, other = pickle.loads(pickle.dumps((seen.model, seen.cache)))
    else:
        other = copied(seen.cache)
    assert (other.fused is None) is (seen.cache.fused is None)
    seen.cache.reset()
    seen.cache = other
    seen.expect_what_never_saw()


@torch.no_grad()
def test_a_prompt_that_is_half_read_goes_on_after_a_load(impl):
    model = make("hyena", torch.float32)
    seen, other = (Seen(model, impl, True, 0) for _ in range(2))
    other.cache.reset()
    other.cache.load_state_dict(seen.cache.state_dict())
    other.expect_what_never_saw()


@pytest.mark.parametrize("copied", [True, False])
@torch.no_grad()
def test_a_crop_to_before_a_load_is_refused(impl, copied):
    """Also with rollback=None: inputs of short convolutions from before it are nowhere."""
    seen = prepared(impl, "hyena", torch.float32, True, None)
    here = [len(row) for row in seen.rows]
    if copied:
        seen.model, seen.cache = pickle.loads(pickle.dumps((seen.model, seen.cache)))
    else:
        seen.cache.load_state_dict(seen.cache.state_dict())
    seen.take(new_ids(random(18), BATCH, 2))
    with pytest.raises(ValueError, match=f"expected length >= {here[1]} for row 1"):
        seen.cache.crop([n - (row == 1) for row, n in enumerate(here)])
    seen.crop(here)
    seen.expect_what_never_saw()


@torch.no_grad()
def test_a_state_that_does_not_fit_is_refused_before_anything_changes(impl):
    seen = prepared(impl, "mixed", torch.float32, False)
    saved = seen.cache.state_dict()
    assert set(saved) >= {"seen", "caches.0.inputs", "caches.1.inputs", "short.short.inputs"}
    changes = {
        "seen": None,
        "caches.0.positions": saved["caches.0.positions"] - 1,
        "caches.1.positions": saved["caches.1.positions"] - 1,
        "caches.1.fingerprint": saved["caches.1.fingerprint"] + 1,
        "short.short.inputs": saved["short.short.inputs"][:, 1:],
        "short.short.taps": saved["short.short.taps"] + 1,
        "short.last.taps": None,
        "short.other.taps": saved["short.last.taps"],
    }
    seen.take(new_ids(random(15), BATCH, 1))
    for name, value in changes.items():
        wrong = {**saved, name: value}
        if value is None:
            del wrong[name]
        with pytest.raises(ValueError, match=r"expected"):
            seen.cache.load_state_dict(wrong)
    with pytest.raises(TypeError, match="state_dict"):
        seen.cache.load_state_dict(3)
    seen.expect_what_never_saw()


@torch.no_grad()
def test_a_model_that_cannot_be_pickled_is_named(impl):
    model = make("mixed", torch.float32)
    model.local = lambda x: x
    cache = ff.DecodingCache(model, BATCH, NEW, impl=impl)
    with pytest.raises(TypeError, match=r"expected a model that pickle can write, got Mixed: "):
        pickle.dumps(cache)


@pytest.mark.parametrize("name", ["hyena", "mixed"])
@torch.no_grad()
def test_replayed_tokens_are_taken_back(launches, name):
    """One of them is aborted before the crop, which reads what it had moved."""
    seen = Seen(make(name, torch.float32), "recorder", True, 4)
    seen.take(new_ids(random(16), BATCH, 1))
    for t, ids in enumerate(new_ids(random(17), BATCH, 7).T):
        seen.cache.begin_token()
        with seen.cache.capture():
            seen.model(ids[:, None], cache=seen.cache)
        if t == 6:
            seen.cache.abort()
        else:
            seen.cache.finish_token()
            seen.rows = [[*row, int(new)] for row, new in zip(seen.rows, ids, strict=True)]
    seen.crop([4, 7, 3])
    seen.expect_what_never_saw()
