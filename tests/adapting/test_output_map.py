"""The output map of an adapted model runs on the positions that are read, where it can."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import futurefill_kernels as ff
from tests.adapting.standins import VOCABULARY, WIDTH, HyenaOperator
from tests.adapting.standins import Model as AfterTheHead
from tests.nn.mixers import check_equal

pytestmark = pytest.mark.cpu_only("stand-ins of public code")
PROMPTS = [torch.tensor([3, 1, 4]), torch.tensor([1, 5, 9, 2, 6]), torch.tensor([7])]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


class Genome(nn.Module):
    """A Hyena operator between an embedding and an output map of some kind."""

    def __init__(self, head=None):
        super().__init__()
        self.embedding, self.mixer = nn.Embedding(VOCABULARY, WIDTH), HyenaOperator()
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY) if head is None else head

    def hidden(self, ids):
        x = self.embedding(ids)
        return self.norm(x + 3 * self.mixer(x))

    def forward(self, ids):
        return self.head(self.hidden(ids))


class Tied(Genome):
    def forward(self, ids):
        return nn.functional.linear(self.hidden(ids), self.embedding.weight)


class Pooled(Genome):
    """Every output looks at all positions up to its own, behind the head too."""

    def forward(self, ids):
        return super().forward(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]


class Residual(Tied):
    """The last module of a call has other positions beside it."""

    def forward(self, ids):
        x = self.embedding(ids)
        y = x + 3 * self.mixer(x)
        return nn.functional.linear(y + self.head(y), self.embedding.weight)


def make(kind=Genome, head=None):
    torch.manual_seed(0)
    return kind(head).double().eval()


MADE = {
    "linear": lambda: make(),
    "tied to the embedding": lambda: make(Tied),
    "several": lambda: make(
        head=nn.Sequential(nn.Linear(WIDTH, 9), nn.GELU(), nn.Linear(9, VOCABULARY))
    ),
}
KEPT = {
    "ids behind the head": lambda: AfterTheHead(HyenaOperator()).double().eval(),
    "a residual": lambda: make(Residual, nn.Linear(WIDTH, WIDTH)),
}


def of_last_positions(adapted, ids, lengths):
    cache = ff.DecodingCache(adapted, len(ids), 4)
    with cache.select(lengths=lengths, last=True):
        return adapted(ids, cache=cache)


@pytest.mark.parametrize("name", [*MADE, *KEPT])
def test_a_prompt_makes_logits_of_its_last_positions(name):
    model = (MADE | KEPT)[name]()
    adapted, ids = ff.adapt(model), torch.randint(VOCABULARY, (2, 13))
    expected = adapted(ids)
    assert expected.shape == (2, 13, VOCABULARY)
    found = of_last_positions(adapted, ids, [13, 6])
    if name in KEPT:
        check_equal(found[0], expected[0])
    else:
        check_equal(found[:, 0], torch.stack([expected[0, 12], expected[1, 5]]))


@pytest.mark.parametrize("name", [*MADE, *KEPT])
def test_tokens_are_those_of_full_recomputation(name):
    model = (MADE | KEPT)[name]()
    adapted = ff.adapt(model)
    new = ff.decode(adapted, PROMPTS, 12)
    for prompt, row in zip(PROMPTS, new, strict=True):
        whole = prompt[None]
        for _ in range(12):
            logits = model(whole)
            logits = getattr(logits, "logits", logits)
            whole = torch.cat([whole, logits[:, -1].argmax(-1, keepdim=True)], 1)
        assert torch.equal(row, whole[0, len(prompt) :])


def test_copies_keep_it_and_the_original_has_no_hook():
    model = make()
    adapted, ids = ff.adapt(model), torch.randint(VOCABULARY, (1, 9))
    assert not model.head._forward_pre_hooks
    for other in (copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
        assert of_last_positions(other, ids, None).shape == (1, 1, VOCABULARY)
    assert type(adapted.model.head) is nn.Linear
    assert list(adapted.state_dict()) == [f"model.{name}" for name in model.state_dict()]


def test_a_model_that_pools_is_still_refused():
    with pytest.raises(ValueError, match="something besides the recognised operators"):
        ff.adapt(make(Pooled))


def test_models_on_meta_have_it_too():
    with torch.device("meta"):
        model = Genome().double().eval()
    adapted = ff.adapt(model)
    adapted.to_empty(device="cpu")
    weights = {f"model.{name}": x for name, x in make().state_dict().items()}
    adapted.load_state_dict(weights)
    ids = torch.randint(VOCABULARY, (1, 9))
    check_equal(of_last_positions(adapted, ids, None), make()(ids)[:, -1:])


def test_an_example_of_one_position():
    adapted = ff.adapt(make(), example=torch.zeros(1, 1, dtype=torch.int64))
    assert of_last_positions(adapted, torch.zeros(1, 5, dtype=torch.int64), None).shape[1] == 5
