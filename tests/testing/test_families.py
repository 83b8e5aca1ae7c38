"""Every method on every head of every family, as docs/methods/families.md prints it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from steadytune import Stack, smoothness
from steadytune.core.model.tap import word_embedding
from steadytune.testing.families import FAMILIES, batch_for, build, pairs
from steadytune.testing.matrix import refusals

ROOT = Path(__file__).parents[2]
FOUND: dict[tuple[str, str], dict[str, str]] = {}


def _all_pairs():
    """Each family with its first head; the others in the long form."""
    seen = set()
    for family, head in pairs():
        marks = [pytest.mark.long] if family in seen else []
        seen.add(family)
        yield pytest.param((family, head), id=f"{family}-{head}", marks=marks)


@pytest.mark.parametrize("pair", _all_pairs())
def test_every_method_trains_or_says_why_not(pair):
    FOUND[pair] = refusals(*pair)
    assert all("\n" not in reason for reason in FOUND[pair].values())


@pytest.mark.long
def test_the_page_of_the_families_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "docs"))  # as for a script that lies there
    missing = [pair for pair in pairs() if pair not in FOUND]
    FOUND.update({pair: refusals(*pair) for pair in missing})
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tools" / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.FAMILIES_PAGE.read_text(encoding="utf-8") == generate.families_page(FOUND), "run `make families`"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tap_fires_once_a_pass_and_the_model_is_left_as_it_came(family):
    head = next(head for name, head in pairs() if name == family)
    model, batch = build(family, head), batch_for(family, head)
    fired = []
    handle = word_embedding(model).register_forward_hook(lambda *_: fired.append(1))
    with torch.no_grad():
        before = model(**batch)["logits"]
    assert len(fired) == 1
    handle.remove()
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        stack.backward(model, batch)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        assert torch.equal(before, model(**batch)["logits"])
