"""Evaluation of models: attack, smoothness and movement, against what can be told by hand in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from torch import Tensor, nn
from transformers import BertForQuestionAnswering, BertForTokenClassification, T5Config, T5ForConditionalGeneration

from steadytune.core.arithmetic.randomness import derive_seed
from steadytune.core.model.tap import word_embedding
from steadytune.errors import HostError
from steadytune.evaluation.measures.attack import AttackedAccuracy, AttackedError, embedding_attack
from steadytune.evaluation.measures.movement import movement, representation_similarity
from steadytune.evaluation.measures.passes import Asked, at_rest, in_double
from steadytune.evaluation.measures.smoothness import smoothness

WIDTH = 4


class Linear(nn.Module):
    """``weight @ mean of the real tokens' embeddings``: everything about it is known in closed form."""

    def __init__(self, weight: Tensor, vocabulary: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(vocabulary, weight.shape[1], generator=generator, dtype=torch.float64)
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)
        self.weight = nn.Parameter(weight.double())

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = attention_mask.unsqueeze(-1).double()
        pooled = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return {"logits": pooled @ self.weight.T}


def ids(rows: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 6, (rows,), generator=generator)
    mask = (torch.arange(5) < lengths.unsqueeze(1)).long()
    return {"input_ids": torch.randint(1, 12, (rows, 5), generator=generator) * mask, "attention_mask": mask}


# ---------------------------------------------------------------- attack


def test_the_attack_reaches_the_worst_case_of_a_linear_model() -> None:
    """Of a linear classifier the worst shift of the margin is the radius times the L1 norm of the difference."""
    weight = torch.tensor([[1.0, -0.5, 0.3, 0.8], [-0.4, 0.6, -0.9, 0.2]])
    model = Linear(weight)
    batch = ids(300)
    margin = (model(**batch)["logits"] @ torch.tensor([1.0, -1.0]).double()).detach()
    labels = (margin < 0).long()
    labels[::7] = 1 - labels[::7]
    batches = [{**batch, "labels": labels}]
    radii = [0.05, 0.2, 0.6]
    found = embedding_attack(model, batches, radii)
    reach = float((weight[0] - weight[1]).abs().sum())
    signed = torch.where(labels == 0, margin, -margin)
    for radius in (0.0, *radii):
        expected = float((signed > radius * reach).double().mean())
        assert found[radius] == AttackedAccuracy(expected, expected, 0)
    assert [a.accuracy for a in found.values()] == sorted((a.accuracy for a in found.values()), reverse=True)
    assert found[0.6].accuracy < found[0.0].accuracy - 0.2


def test_the_attack_on_a_regressor_is_its_worst_squared_error() -> None:
    weight = torch.tensor([[1.0, -0.5, 0.3, 0.8]])
    model, batch = Linear(weight), ids(50)
    labels = torch.linspace(-1, 1, 50, dtype=torch.float64)
    error = (model(**batch)["logits"].detach().squeeze(1) - labels).abs()
    found = embedding_attack(model, [{**batch, "labels": labels}], [0.1])
    assert isinstance(found[0.0], AttackedError)
    assert found[0.0].error == pytest.approx(float(error.square().mean()), rel=1e-12)
    reach = 0.1 * float(weight.double().abs().sum())
    assert found[0.1].error == pytest.approx(float((error + reach).square().mean()), rel=1e-9)
    assert found[0.1].robust_error == found[0.1].error


def test_robust_accuracy_counts_a_row_only_if_it_was_right_before() -> None:
    """Where the loss is not monotone in the radius, the attack's own accuracy may rise again."""

    class Wave(Linear):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            height = super().forward(input_ids, attention_mask)["logits"].sum(-1)
            return {"logits": torch.stack([torch.zeros_like(height), torch.sin(height)], -1)}

    model, batch = Wave(torch.eye(WIDTH) * 3), ids(200)
    labels = model(**batch)["logits"].argmax(-1)
    found = list(embedding_attack(model, [{**batch, "labels": labels}], [0.2, 0.7, 1.5], steps=2).values())
    robust = [a.robust_accuracy for a in found if isinstance(a, AttackedAccuracy)]
    own = [a.accuracy for a in found if isinstance(a, AttackedAccuracy)]
    assert own[0] == robust[0] == 1.0
    assert robust == sorted(robust, reverse=True)
    assert any(r < a for r, a in zip(robust, own, strict=True))
    assert all(r <= a for r, a in zip(robust, own, strict=True))


@pytest.mark.parametrize("build", [tiny.bert, tiny.roberta, tiny.llama])
def test_radius_zero_is_the_clean_model_and_the_model_leaves_as_it_came(build) -> None:
    model = build(dropout=0.1)
    batch = tiny.batch(16, pad=model.config.pad_token_id)
    before = tiny.weights(model)
    with torch.no_grad():
        model.eval()
        clean = float((model(**batch).logits.argmax(-1) == batch["labels"]).double().mean())
        model.train()
    found = embedding_attack(model, [batch], [0.5])
    assert found[0.0].accuracy == clean  # pyright: ignore[reportAttributeAccessIssue]
    assert found[0.5].accuracy < clean  # pyright: ignore[reportAttributeAccessIssue]
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not word_embedding(model)._forward_hooks
    assert tiny.differences(tiny.weights(model), before) == []
    assert found == embedding_attack(model, [batch], [0.5]), "no randomness"


def test_padding_changes_no_attack() -> None:
    model = tiny.bert(dtype=torch.float64)
    plain, padded = tiny.batch(8), tiny.batch(8, extra=4)
    first, second = (embedding_attack(model, [b], [0.05, 0.2]) for b in (plain, padded))
    assert first == second
    split = [tiny.rows(plain, 0, 3), tiny.rows(plain, 3, 8)]
    assert embedding_attack(model, split, [0.05, 0.2]) == first


def test_taggers_and_several_labels_are_attacked_by_word_and_label() -> None:
    config = tiny.bert().config
    tagger = tiny.seeded(lambda: BertForTokenClassification(config), 0)
    batch = tiny.batch(4)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, 1] = 1
    labels[0, 2] = 0
    batch["labels"] = labels
    found = embedding_attack(tagger, [batch], [0.5])
    with torch.no_grad():
        right = (tagger.eval()(**batch).logits.argmax(-1) == labels)[labels != -100]
    assert len(right) == 5
    assert found[0.0].accuracy == float(right.double().mean())  # pyright: ignore[reportAttributeAccessIssue]

    several = tiny.bert(num_labels=3, problem_type="multi_label_classification")
    batch = tiny.batch(6)
    batch["labels"] = torch.randint(2, (6, 3)).float()
    found = embedding_attack(several, [batch], [0.5])
    with torch.no_grad():
        right = (several.eval()(**batch).logits > 0) == (batch["labels"] > 0.5)
    assert found[0.0].accuracy == pytest.approx(float(right.double().mean()))  # pyright: ignore[reportAttributeAccessIssue]
    assert found[0.5].robust_accuracy < found[0.0].accuracy  # pyright: ignore[reportAttributeAccessIssue]


# ---------------------------------------------------------------- smoothness


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def slow_smoothness(
    weight: np.ndarray, x: np.ndarray, start: np.ndarray, radius: float, step: float
) -> tuple[float, np.ndarray]:
    """One sentence ``(length, width)``: symmetric KL at SMART's adversary with one step, derived by hand."""
    clean = softmax(weight @ x.mean(0))
    moved = softmax(weight @ (x + start).mean(0))
    ratio = np.log(moved / clean)
    to_logits = moved * (ratio - (moved * ratio).sum()) + moved - clean
    gradient = np.tile(weight.T @ to_logits / len(x), (len(x), 1))
    delta = np.clip(start + step * gradient / np.abs(gradient).max(), -radius, radius)
    end = softmax(weight @ (x + delta).mean(0))
    return float(((end - clean) * np.log(end / clean)).sum()), delta


@pytest.mark.parametrize(("radius", "step"), [(1e-5, 1e-3), (1e-3, 1e-3), (0.1, 0.02)])
def test_smoothness_is_as_derived_by_hand(radius, step) -> None:
    weight = torch.tensor([[2.0, -1.0, 0.5, 0.0], [0.0, 1.0, 1.0, -2.0], [0.3, 0.1, -0.7, 0.4]])
    model, batch = Linear(weight), ids(6)
    found = smoothness(model, [batch], radius, step_size=step, seed=3)
    with at_rest(model):
        asked = Asked(model, batch)
        starts, directions = (
            asked.normal(radius, torch.Generator().manual_seed(derive_seed(3, 0, what))).numpy()
            for what in ("start", "random")
        )
    lengths = batch["attention_mask"].sum(1).tolist()
    embedded = model.embedding(batch["input_ids"]).detach().numpy()
    w = weight.double().numpy()
    values, randoms, ratios = [], [], []
    for x, start, direction, n in zip(embedded, starts, directions, lengths, strict=True):
        value, delta = slow_smoothness(w, x[:n], np.clip(start[:n], -radius, radius), radius, step)
        values.append(value)
        moved = direction[:n] * np.linalg.norm(delta) / np.linalg.norm(direction[:n])
        clean, end = softmax(w @ x[:n].mean(0)), softmax(w @ (x[:n] + moved).mean(0))
        randoms.append(((end - clean) * np.log(end / clean)).sum())
        ratios.append(np.linalg.norm(w @ moved.mean(0)) / np.linalg.norm(moved))
    assert found.items == 6
    assert found.adversarial == pytest.approx(np.mean(values), rel=1e-6)
    assert found.random == pytest.approx(np.mean(randoms), rel=1e-6)
    if step >= radius:
        assert found.adversarial > 2 * found.random
    assert found.random_lipschitz.mean == pytest.approx(np.mean(ratios), rel=1e-6)
    assert found.random_lipschitz.largest == pytest.approx(np.max(ratios), rel=1e-6)


def test_the_lipschitz_ratio_of_a_linear_model_is_its_largest_singular_value() -> None:
    """``W mean(d)`` moves by at most ``sigma(W) / sqrt(length)`` times ``||d||``."""
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)))[0]
    weight = torch.diag(torch.tensor([3.0, 1.0, 0.5])) @ rotation[:3]
    batch = ids(20)
    lengths = batch["attention_mask"].sum(1).double()
    expected = 3.0 / lengths.sqrt()
    found = smoothness(Linear(weight), [batch], 1e-3)
    assert found.lipschitz.mean == pytest.approx(float(expected.mean()), rel=1e-6)
    assert found.lipschitz.largest == pytest.approx(float(expected.max()), rel=1e-6)
    assert found.random_lipschitz.largest < found.lipschitz.largest


def test_a_smoother_model_has_smaller_numbers() -> None:
    model = tiny.bert(dropout=0.3, dtype=torch.float64)
    batches = [tiny.batch(4, seed=s) for s in range(3)]
    rough = smoothness(model, batches, 1e-3)
    assert rough == smoothness(model, batches, 1e-3), "no dropout, and seeded noise"
    assert rough.adversarial > rough.random > 0
    assert rough.lipschitz.mean > rough.random_lipschitz.mean > 0
    with torch.no_grad():
        model.classifier.weight.mul_(0.1)
    smooth = smoothness(model, batches, 1e-3)
    assert smooth.adversarial < 0.02 * rough.adversarial
    assert smooth.lipschitz.mean == pytest.approx(0.1 * rough.lipschitz.mean, rel=0.05)


def test_smoothness_does_not_depend_on_padding() -> None:
    model = tiny.bert(dtype=torch.float64)
    first, second = (smoothness(model, [tiny.batch(4, extra=extra)], 1e-3) for extra in (0, 5))
    assert first.adversarial == pytest.approx(second.adversarial, rel=1e-9)
    assert first.lipschitz.mean == pytest.approx(second.lipschitz.mean, rel=1e-9)


def test_every_head_has_a_smoothness() -> None:
    config = tiny.bert().config
    batch = tiny.batch(4)
    answers = {"start_positions": torch.tensor([1, 0, 1, 0]), "end_positions": torch.tensor([2, 1, 1, 0])}
    reader = tiny.seeded(lambda: BertForQuestionAnswering(config), 0).double()
    asked = {k: v for k, v in batch.items() if k != "labels"}
    assert smoothness(reader, [asked | answers], 1e-3).items == 8
    regressor = tiny.bert(num_labels=1, problem_type="regression", dtype=torch.float64)
    assert smoothness(regressor, [tiny.batch(4, labels=1)], 1e-3).adversarial > 0
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    writer = tiny.seeded(lambda: T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)), 0).double()
    labels = torch.tensor([[5, 6, -100], [7, 8, 9], [5, -100, -100], [6, 1, -100]])
    found = smoothness(writer, [{**batch, "labels": labels}], 1e-3)
    assert found.items == 8
    assert found.adversarial > 0


def test_a_model_without_word_embeddings_is_refused() -> None:
    with pytest.raises(HostError, match="get_input_embeddings"):
        smoothness(nn.Linear(2, 2), [{"input": torch.zeros(1, 2)}], 1e-3)


# ---------------------------------------------------------------- float64


def test_float64_comes_and_goes() -> None:
    model = tiny.roberta(dtype=torch.float32)
    batch = tiny.batch(2, pad=1)
    before, pointer = tiny.weights(model), model.classifier.dense.weight.data_ptr()
    with in_double(model):
        assert model.eval()(**batch).logits.dtype == torch.float64
    assert tiny.differences(tiny.weights(model), before) == []
    assert model.classifier.dense.weight.data_ptr() == pointer
    with pytest.raises(RuntimeError, match="stop"), in_double(model):
        raise RuntimeError("stop")
    assert model.classifier.dense.weight.dtype == torch.float32


# ---------------------------------------------------------------- movement


def moved(model: Any, scale: float) -> Any:
    changed = tiny.clone(model)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in changed.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
    return changed


def test_movement_is_relative_to_the_pretrained_weights_by_layer() -> None:
    pretrained = tiny.bert()
    tuned = moved(pretrained, 0.01)
    found = movement(tuned, pretrained)
    assert [layer.name for layer in found.layers] == ["embeddings", "layer 1", "layer 2", "above the layers"]
    assert found.left_out == ("classifier.weight", "classifier.bias")
    prefixes = ("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1.", "bert.pooler.")
    for layer, prefix in zip(found.layers, prefixes, strict=True):
        pairs = [
            (p.detach().double().numpy(), dict(pretrained.named_parameters())[n].detach().double().numpy())
            for n, p in tuned.named_parameters()
            if n.startswith(prefix)
        ]
        w, w0 = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
        assert layer.weights == len(w)
        assert layer.distance.relative_l2 == pytest.approx(np.linalg.norm(w - w0) / np.linalg.norm(w0), rel=1e-12)
        assert layer.distance.relative_l1 == pytest.approx(np.abs(w - w0).sum() / np.abs(w0).sum(), rel=1e-12)
        assert layer.cka is None
    assert movement(pretrained, pretrained).total.relative_l2 == 0.0


def test_weights_of_another_shape_are_left_out_by_name() -> None:
    found = movement(tiny.bert(vocab_size=70), tiny.bert())
    assert "bert.embeddings.word_embeddings.weight" in found.left_out


def gram_cka(x: np.ndarray, y: np.ndarray) -> float:
    """The form with Gram matrices and HSIC (equations 2 and 3 of Kornblith et al.)."""
    n = len(x)
    center = np.eye(n) - 1 / n

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.trace(a @ a.T @ center @ b @ b.T @ center)) / (n - 1) ** 2

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def test_representations_are_compared_by_centered_kernel_alignment() -> None:
    pretrained = tiny.bert(dropout=0.3, dtype=torch.float64)
    tuned = moved(pretrained, 0.1)
    batches = [tiny.batch(3, seed=s, extra=s) for s in range(4)]
    found = representation_similarity(tuned, pretrained, iter(batches))
    states: list[list[list[np.ndarray]]] = [[[] for _ in range(3)] for _ in range(2)]
    with torch.no_grad():
        for which, model in enumerate((tiny.clone(tuned).eval(), tiny.clone(pretrained).eval())):
            for batch in batches:
                inputs = {k: v for k, v in batch.items() if k != "labels"}
                for depth, state in enumerate(model(**inputs, output_hidden_states=True).hidden_states):
                    states[which][depth].append(state[batch["attention_mask"].bool()].numpy())
    for depth in range(3):
        expected = gram_cka(np.concatenate(states[0][depth]), np.concatenate(states[1][depth]))
        assert found[depth] == pytest.approx(expected, rel=1e-9)
        assert 0 < found[depth] < 1
    assert found[0] > found[2], "the difference grows on the way up"
    assert representation_similarity(pretrained, pretrained, iter(batches)) == pytest.approx([1.0] * 3)
    assert all(m.training for m in tuned.modules())


def test_rotated_and_scaled_representations_are_the_same() -> None:
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0].double()
    features = torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(2)).double()

    class Fixed(nn.Module):
        def __init__(self, change: Tensor) -> None:
            super().__init__()
            self.change = change

        def forward(self, part: Tensor, output_hidden_states: bool) -> Any:
            return SimpleNamespace(hidden_states=(features[part] @ self.change + 3.0,))

    batches = [{"part": torch.tensor([i, i + 1])} for i in (0, 2)]
    assert representation_similarity(Fixed(2.5 * rotation), Fixed(torch.eye(6).double()), batches) == pytest.approx(
        [1]
    )


def test_movement_reports_similarity_per_layer() -> None:
    pretrained = tiny.bert()
    found = movement(moved(pretrained, 0.05), pretrained, [tiny.batch(8)])
    assert [layer.cka is not None for layer in found.layers] == [True, True, True, False]


def test_only_real_tokens_are_moved() -> None:
    """Also in a model that looks at its padding, which gives it a gradient (Qwen3 does)."""

    class Leaky(Linear):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            return super().forward(input_ids, torch.ones_like(attention_mask))

    model, batch = Leaky(torch.eye(WIDTH)), ids(4)
    with at_rest(model), torch.no_grad():
        asked = Asked(model, batch)
        everywhere = torch.ones(asked.seen.shape, dtype=torch.float64)
        assert torch.equal(asked.moved(everywhere * (1 - batch["attention_mask"]).unsqueeze(-1)), asked.clean)
        share = batch["attention_mask"].double().mean(1, keepdim=True)
        assert torch.allclose(asked.moved(everywhere) - asked.clean, share.expand(4, WIDTH))
