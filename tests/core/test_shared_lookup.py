"""A perturbed pass takes the word embeddings that the clean one has looked up: one gradient of the table, not two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steadytune import Stack, bregman, neftune, r3f, smoothness
from steadytune.core.model.tap import Tap, word_embedding
from steadytune.testing import tiny
from steadytune.testing.families import FAMILIES, batch_for, build, pairs

LARGE = {"radius": 0.01, "noise_std": 0.01}
METHODS = {
    "fresh masks": lambda: [smoothness(**LARGE)],
    "the same masks": lambda: [smoothness(**LARGE, masks="same", ascent_steps=2)],
    "two terms": lambda: [smoothness(**LARGE), r3f(radius=0.01)],
    "every second update": lambda: [smoothness(**LARGE, every=2)],
    "a teacher": lambda: [smoothness(**LARGE), bregman()],
}


def lookups(loss: Tensor, model: nn.Module) -> int:
    """How many lookups of words the backward pass goes through."""
    words: Any = word_embedding(model)
    met, found, ahead = set(), 0, [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in met:
            continue
        met.add(node)
        tables = [getattr(following, "variable", None) for following, _ in node.next_functions]
        found += type(node).__name__ == "EmbeddingBackward0" and tables[0] is words.weight
        ahead += [following for following, _ in node.next_functions]
    return found


def trained(model: nn.Module, batch: Mapping[str, Any], methods: list[Any], **stack: Any) -> dict[str, Tensor]:
    """Gradients of one micro-batch."""
    model.zero_grad()
    torch.manual_seed(7)
    with Stack(methods, seed=1, **stack) as opened:
        opened.prepare(model, total_updates=2)
        opened.backward(model, batch)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def trained_anew(monkeypatch: pytest.MonkeyPatch, *args: Any) -> dict[str, Tensor]:
    """The same, where every pass looks its words up itself."""
    with monkeypatch.context() as patched:
        patched.setattr(Tap, "take_clean", lambda _self: None)
        return trained(*args)


def assert_the_same(shared: dict[str, Tensor], anew: dict[str, Tensor]) -> None:
    assert shared.keys() == anew.keys()
    for name, expected in anew.items():
        torch.testing.assert_close(shared[name], expected, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_the_gradients_are_those_of_passes_that_look_up_anew(methods: Callable[[], list[Any]], monkeypatch) -> None:
    model, batch = tiny.model(dropout=0.1, dtype=torch.float64), tiny.batch(padding=2)
    assert_the_same(trained(model, batch, methods()), trained_anew(monkeypatch, model, batch, methods()))


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_too(family: str, monkeypatch) -> None:
    head = next(head for name, head in pairs() if name == family)
    model = build(family, head).double().train()
    batch = batch_for(family, head, dtype=torch.float64)
    methods = [smoothness(**LARGE)]
    assert_the_same(trained(model, batch, methods), trained_anew(monkeypatch, model, batch, methods))


class InPlace(nn.Module):
    """A model that adds to its word embeddings in place, as DeBERTa did to add positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(tiny.VOCABULARY, 8), nn.Linear(8, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        found = self.words(input_ids)
        found += 0.5
        logits = self.head((found * attention_mask.unsqueeze(-1)).mean(1).tanh())
        return {"logits": logits} | ({} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)})


def hooked(model: nn.Module) -> None:
    word_embedding(model).register_forward_hook(lambda _module, _inputs, output: output * 1.5)


def hooked_before(model: nn.Module) -> None:
    word_embedding(model).register_forward_pre_hook(lambda _module, inputs: (inputs[0] % 7,))


def renormalized(model: nn.Module) -> None:
    embedding: Any = word_embedding(model)
    embedding.max_norm = 1e6


def replaced(model: nn.Module) -> None:
    embedding = word_embedding(model)
    found = embedding.forward
    embedding.forward = lambda ids: found(ids) * 1.5


@pytest.mark.parametrize(
    ("model", "change", "methods", "expected"),
    [
        (tiny.model, None, [smoothness()], 1),
        (tiny.model, None, [smoothness(), r3f()], 1),
        (tiny.model, hooked, [smoothness()], 2),
        (tiny.model, hooked_before, [smoothness()], 2),
        (tiny.model, renormalized, [smoothness()], 2),
        (tiny.model, replaced, [smoothness()], 2),
        (tiny.model, None, [smoothness(), neftune()], 2),
        (tiny.model, None, [smoothness(one_in=2)], 2),
        (InPlace, None, [smoothness()], 2),
    ],
    ids=["one", "two terms", "hook", "hook before", "max_norm", "own forward", "neftune", "a part", "in place"],
)
def test_only_what_is_the_same_is_shared(
    model: Callable[[], nn.Module], change: Callable[[nn.Module], None] | None, methods: list[Any], expected: int
) -> None:
    network = model()
    if change is not None:
        change(network)
    with Stack(methods) as stack:
        stack.prepare(network)
        assert lookups(stack.loss(network, tiny.batch()), network) == expected


def test_one_graph_at_a_time_gives_the_same() -> None:
    model, batch = tiny.model(dropout=0.1, dtype=torch.float64), tiny.batch()
    assert_the_same(
        trained(model, batch, [smoothness(**LARGE)], memory="low"), trained(model, batch, [smoothness(**LARGE)])
    )


@pytest.mark.parametrize("method", [smoothness, bregman])
def test_nothing_of_a_step_is_held_after_it(method: Callable[[], Any]) -> None:
    model = tiny.model()
    with Stack([method()]) as stack:
        stack.prepare(model, total_updates=2)
        stack.backward(model, tiny.batch())
        assert all(tap.take_clean() is None for tap in stack._session.taps.values())


def test_a_step_that_is_left_in_the_middle_leaves_nothing_either() -> None:
    model = tiny.model()
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        with stack.clean_pass():  # the host's loss fails after it, and the terms never run
            model(input_ids=tiny.batch()["input_ids"])
        taps = list(stack._session.taps.values())
    assert all(tap.take_clean() is None for tap in taps)


def test_what_is_shared_is_off_under_a_compiler(monkeypatch) -> None:
    model = tiny.model()
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert lookups(stack.loss(model, tiny.batch()), model) == 2
