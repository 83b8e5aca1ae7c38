"""Terms of the loss on every kind of head: what they compare, what is left out, and how much memory it takes."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from steadytune import Stack, bregman, r3f, r_drop, smoothness, vat
from steadytune.core.arithmetic import chunked_divergence
from steadytune.core.arithmetic.chunked_divergence import by_position
from steadytune.core.arithmetic.divergence import one_way_divergence, symmetric_kl
from steadytune.core.model.outputs import logits_of, prediction_of
from steadytune.core.model.tap import Tap
from steadytune.errors import HostError
from steadytune.testing.families import batch_for, build

CASES = [
    ("BERT", "classification"),
    ("BERT", "multi-label"),
    ("BERT", "regression"),
    ("BERT", "token classification"),
    ("BERT", "question answering"),
    ("BERT", "multiple choice"),
    ("BERT", "masked LM"),
    ("XLNet", "classification"),
    ("XLNet", "question answering"),
    ("T5", "seq2seq LM"),
    ("T5", "token classification"),
    ("BART", "seq2seq LM"),
    ("BART", "classification"),
    ("GPT-2", "causal LM"),
    ("Llama", "causal LM"),
    ("Qwen3", "token classification"),
    ("ViT", "classification"),
]
FAR = {"radius": 0.05, "noise_std": 0.02, "step_size": 0.03, "masks": "same"}


def slow_items(head, outputs, batch):
    """Every supervised prediction as a list of logits (or one number), written out by hand."""
    if head in ("classification", "multiple choice"):
        return [("classes", row) for row in outputs["logits"]]
    if head == "multi-label":
        return [("yes or no", x) for row in outputs["logits"] for x in row]
    if head == "regression":
        return [("number", row[0]) for row in outputs["logits"]]
    items = []
    if head == "question answering":
        for i in range(len(outputs["start_logits"])):
            real = [j for j in range(outputs["start_logits"].shape[1]) if batch["attention_mask"][i, j] == 1]
            items += [("classes", outputs[name][i][real]) for name in ("start_logits", "end_logits")]
        return items
    ahead = 1 if head == "causal LM" else 0
    for i, row in enumerate(batch["labels"]):
        for j in range(len(row) - ahead):
            if row[j + ahead] != -100:
                items.append(("classes", outputs["logits"][i, j]))
    return items


def slow_divergence(p, q, *, one_way=False):
    total = 0.0
    for (kind, a), (_, b) in zip(p, q, strict=True):
        if kind == "number":
            total = total + (a - b) ** 2
            continue
        if kind == "yes or no":
            pair = [torch.stack((x, 0 * x)).softmax(0) for x in (a, b)]
        else:
            pair = [x.softmax(0) for x in (a, b)]
        total = total + (pair[0] * (pair[0] / pair[1]).log()).sum()
        total = total + (0.0 if one_way else (pair[1] * (pair[1] / pair[0]).log()).sum())
    return total


def embedding_of(model):
    encoder = model.get_encoder() if model.config.model_type in ("t5", "bart") else model
    return encoder.get_input_embeddings()


@contextmanager
def moved(model, delta):
    """The model with its word embeddings moved, by a hook of the test's own."""
    flip = model.config.model_type == "xlnet"
    add = delta.transpose(0, 1) if flip else delta
    handle = embedding_of(model).register_forward_hook(lambda _m, _i, output: output + add)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture
def deltas(monkeypatch):
    """The perturbations that the tap adds, in order."""
    seen = []
    plain = Tap.perturbing

    def perturbing(self, delta, *, clean=None):
        seen.append(delta)
        return plain(self, delta, clean=clean)

    monkeypatch.setattr(Tap, "perturbing", perturbing)
    return seen


@pytest.mark.parametrize(("family", "head"), CASES)
def test_the_smoothness_term_equals_its_slow_form(family, head, deltas):
    model = build(family, head, dtype=torch.float64, initializer_range=0.4, init_std=0.4)
    batch = batch_for(family, head, dtype=torch.float64)
    stack = Stack([smoothness(**FAR)])
    stack.prepare(model)
    stack.loss(model, batch)
    found = stack.take_logs()["smoothness"]
    start, end = (d.detach() for d in deltas)
    rows = batch["attention_mask"].flatten(0, -2) if "attention_mask" in batch else torch.ones(start.shape[:2])

    clean = slow_items(head, model(**batch), batch)
    target = [(kind, x.detach()) for kind, x in clean]
    delta = start.clone().requires_grad_(True)
    with moved(model, delta):
        value = slow_divergence(slow_items(head, model(**batch), batch), target)
    (gradient,) = torch.autograd.grad(value, delta)
    expected = start.clone()
    for i in range(len(start)):
        step = gradient[i] * rows[i].unsqueeze(-1)
        expected[i] = (start[i] + FAR["step_size"] * step / step.abs().max()).clamp(-FAR["radius"], FAR["radius"])
    assert torch.allclose(end, expected, atol=1e-11)
    assert float(end.abs().max()) > 0
    assert not end[rows == 0].any(), "padding is not moved"

    with moved(model, end):
        again = slow_items(head, model(**batch), batch)
    assert found == pytest.approx(float(slow_divergence(again, clean).detach() / len(clean)), rel=1e-9)
    assert found > 1e-9


@pytest.mark.parametrize(("family", "head"), [c for c in CASES if c[1] != "regression"])
def test_the_one_way_term_equals_its_slow_form(family, head, deltas):
    model = build(family, head, dtype=torch.float64, initializer_range=0.4, init_std=0.4)
    batch = batch_for(family, head, dtype=torch.float64)
    stack = Stack([vat(radius=0.5)])
    stack.prepare(model)
    stack.loss(model, batch)
    found = stack.take_logs()["vat"]
    clean = slow_items(head, model(**batch), batch)
    with moved(model, deltas[-1].detach()):
        again = slow_items(head, model(**batch), batch)
    assert found == pytest.approx(float(slow_divergence(clean, again, one_way=True).detach() / len(clean)), rel=1e-8)


# Images have no padding; the relative positions or the last tokens of the others see it, with or without us.
@pytest.mark.parametrize(("family", "head"), [c for c in CASES if c[0] in ("BERT", "Llama", "Qwen3")])
def test_padding_changes_no_term(family, head):
    model = build(family, head, dtype=torch.float64, initializer_range=0.4)
    batch = batch_for(family, head, dtype=torch.float64)
    terms = []
    for extra in (0, 4):
        wide = dict(batch)
        for name in ("input_ids", "attention_mask", "labels"):
            if name in wide and wide[name].shape[-1:] == batch["input_ids"].shape[-1:]:
                wide[name] = torch.nn.functional.pad(wide[name], (0, extra), value=-100 if name == "labels" else 0)
        with Stack([smoothness(**FAR), r3f(radius=0.05, masks="same")]) as stack:
            stack.prepare(model)
            stack.loss(model, wide)
            terms.append(stack.take_logs())
    assert terms[0]["smoothness"] == pytest.approx(terms[1]["smoothness"], rel=1e-9)
    assert terms[0]["r3f"] == pytest.approx(terms[1]["r3f"], rel=1e-9)


@pytest.mark.parametrize(("family", "head"), [("BERT", "token classification"), ("Llama", "causal LM")])
def test_what_is_not_supervised_changes_no_term(family, head):
    """A label of -100 leaves a position out, however far its prediction moves."""
    model = build(family, head, dtype=torch.float64, initializer_range=0.4)
    batch = batch_for(family, head, dtype=torch.float64)
    fewer = dict(batch, labels=batch["labels"].clone())
    fewer["labels"][:, 5:] = -100
    values = []
    for given in (batch, fewer):
        with Stack([r3f(radius=0.05, masks="same")]) as stack:
            stack.prepare(model)
            stack.loss(model, given)
            values.append(stack.take_logs()["r3f"])
    assert abs(values[0] - values[1]) > 1e-6
    nothing = dict(batch, labels=torch.full_like(batch["labels"], -100))
    with Stack([r3f(radius=0.05, masks="same")]) as stack:
        stack.prepare(model)
        stack.loss(model, nothing)
        assert stack.take_logs()["r3f"] == 0


@pytest.mark.parametrize("head", ["causal LM", "question answering", "token classification"])
@pytest.mark.parametrize(
    "method", [smoothness(**FAR), bregman(early_fraction=0), r_drop(), vat()], ids=lambda m: m.name
)
def test_gradients_are_finite_on_every_head(head, method):
    model = build("Llama", head, dropout=0.1)
    with Stack([method]) as stack:
        stack.prepare(model, total_updates=3)
        stack.backward(model, batch_for("Llama", head))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize("one_way", [False, True])
@pytest.mark.parametrize("rows_in_a_chunk", [1, 3, 100])
def test_chunks_change_nothing(monkeypatch, one_way, rows_in_a_chunk):
    monkeypatch.setattr(chunked_divergence, "CHUNK_ENTRIES", rows_in_a_chunk * 7)
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(2, 5, 7, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    counted = torch.rand(2, 5, generator=generator) > 0.4
    outer = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    plain = one_way_divergence("classification", p, q) if one_way else symmetric_kl(p, q)
    plain = torch.where(counted, plain, torch.zeros_like(plain))
    expected = torch.autograd.grad((plain * outer).sum(), (p, q))
    chunked = by_position(p, q, counted, one_way=one_way)
    found = torch.autograd.grad((chunked * outer).sum(), (p, q))
    assert torch.allclose(chunked, plain, atol=1e-14)
    assert all(torch.allclose(a, b, atol=1e-14) for a, b in zip(found, expected, strict=True))


def test_chunks_in_half_precision_are_computed_in_float32():
    p, q = torch.randn(1, 3, 50), torch.randn(1, 3, 50)
    counted = torch.ones(1, 3, dtype=torch.bool)
    p, q = p.bfloat16().requires_grad_(), q.bfloat16()
    value = by_position(p, q, counted)
    assert value.dtype == torch.float32
    assert torch.allclose(value, symmetric_kl(p, q), atol=1e-6)
    value.sum().backward()
    assert p.grad is not None
    assert p.grad.dtype == torch.bfloat16


class LiveBytes(TorchDispatchMode):
    """The largest number of bytes that tensors made inside hold at once."""

    def __init__(self, *outside):
        super().__init__()
        self.storages = {tensor.untyped_storage().data_ptr(): 0 for tensor in outside}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        import weakref

        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.storages and storage.nbytes() > 0:
                    key, size = storage.data_ptr(), storage.nbytes()
                    self.storages[key] = size
                    self.now += size
                    weakref.finalize(storage, self._gone, key, size)
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, key, size):
        self.storages.pop(key, None)
        self.now -= size


def test_a_large_vocabulary_takes_no_copy_of_the_outputs(monkeypatch):
    """The bound of the card: the two gradients, and a few chunks; the plain form takes many times that."""
    vocabulary, tokens = 152_000, 64
    monkeypatch.setattr(chunked_divergence, "CHUNK_ENTRIES", 2 * vocabulary)
    p, q = (torch.randn(1, tokens, vocabulary, dtype=torch.bfloat16).requires_grad_() for _ in range(2))
    counted = torch.ones(1, tokens, dtype=torch.bool)
    peaks = {}
    for name, compute in (("chunked", lambda: by_position(p, q, counted)), ("plain", lambda: symmetric_kl(p, q))):
        with LiveBytes(p, q) as live:
            torch.autograd.grad(compute().sum(), (p, q))
        peaks[name] = live.peak
    outputs = p.numel() * 2
    chunk = 2 * vocabulary * 4
    assert peaks["chunked"] <= 2 * outputs + 10 * chunk
    assert peaks["plain"] > 3 * peaks["chunked"]


def test_start_and_end_leave_the_padding_out():
    start = torch.zeros(1, 3)
    outputs = {"start_logits": start, "end_logits": start}
    mask = torch.tensor([[1, 1, 0]])
    logits = logits_of(outputs, {"attention_mask": mask})
    assert logits.shape == (1, 2, 3)
    assert torch.allclose(logits.softmax(-1)[0, 0], torch.tensor([0.5, 0.5, 0.0]))
    assert math.isfinite(float(symmetric_kl(logits, logits).sum()))


def test_an_answer_outside_the_text_is_not_supervised():
    model, batch = build("BERT", "question answering"), batch_for("BERT", "question answering")
    batch["start_positions"][0] = batch["input_ids"].shape[1]  # Transformers ignores it in the loss
    stack = Stack([r3f(radius=0.1, masks="same")])
    stack.prepare(model)
    loss = stack.loss(model, batch)
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"hidden": torch.zeros(1)}, "without a tensor named 'logits'"),
        ({"logits": torch.zeros(1, 2), "mc_logits": torch.zeros(1, 2)}, "two heads at once"),
    ],
)
def test_heads_without_comparable_outputs_are_refused(outputs, message):
    with pytest.raises(HostError, match=message):
        logits_of(outputs, {})


def test_a_model_may_say_how_its_outputs_are_compared():
    logits, model = torch.zeros(2, 3), torch.nn.Linear(1, 1)
    assert prediction_of(model, {"prediction": "regression"}, logits, None) == "regression"
    with pytest.raises(HostError, match="prediction='ranking'"):
        prediction_of(model, {"prediction": "ranking"}, logits, None)


def test_xlnets_language_model_is_refused():
    model, batch = build("XLNet", "causal LM"), batch_for("XLNet", "causal LM")
    stack = Stack([smoothness()])
    stack.prepare(model)
    with pytest.raises(HostError, match="an order of its own"):
        stack.loss(model, batch)


def test_positions_without_labels_are_refused():
    model, batch = build("Llama", "causal LM"), batch_for("Llama", "causal LM")
    stack = Stack([smoothness()])
    stack.prepare(model)
    with stack.clean_pass() as clean:
        outputs = model(**batch)
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    with pytest.raises(HostError, match="without one label per position"):
        stack.add_terms(outputs["loss"], outputs, clean, model=model, inputs=inputs)
