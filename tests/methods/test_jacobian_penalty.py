"""A penalty on the Jacobian by random projection, which needs a backward pass through a gradient, as one writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from steadytune import Stack
from steadytune.core.authoring import Cost, LossMethod, PerItem, Step
from steadytune.testing import PROPERTIES, check, tiny


@dataclass(frozen=True)
class JacobianPenalty(LossMethod):
    """The squared norm of the Jacobian of the outputs to the word embeddings (Hoffman et al., 2019, algorithm 1).

    One projection on a random direction of the outputs: the mean over the directions of ``C * ||J^T v||^2`` is
    ``||J||^2``.
    """

    name: ClassVar[str] = "jacobian_penalty"
    paper: ClassVar[str] = "Hoffman et al., arXiv 1908.02729, alg. 1"
    strong_settings: ClassVar[Mapping[str, Any]] = {"weight": 1.0}

    def term(self, step: Step) -> PerItem:
        direction = torch.nn.functional.normalize(step.output_noise(), dim=-1)
        gradient = step.gradient(lambda outputs: outputs * direction)
        return step.per_item(direction.shape[-1] * gradient.square().flatten(1).sum(1))

    def cost(self) -> Cost:
        return Cost(forwards=1, backwards_to_embeddings=1, backwards_through_gradients=1, activation_sets=SETS)

    def effect(self) -> str:
        return "keeps the outputs flat around the word embeddings"


#: The second pass, and the graph of its gradient; attention without fused kernels keeps its matrices.
SETS = 3


def jacobians(model: nn.Module, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """The Jacobian of each example alone, ``(outputs, tokens, width)``, one output after the other."""
    embed: Any = model.get_input_embeddings
    words = embed()(batch["input_ids"]).detach()
    found = []
    for row, mask in zip(words, batch["attention_mask"].bool(), strict=True):
        own = row[mask].clone().requires_grad_()
        logits = model(inputs_embeds=own[None]).logits[0]
        found.append(torch.stack([torch.autograd.grad(value, own, retain_graph=True)[0] for value in logits]))
    return found


@pytest.mark.parametrize("name", PROPERTIES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_it_holds_the_contract(name: str) -> None:
    check(JacobianPenalty, name)


def test_the_term_is_the_projected_jacobian_and_its_mean_the_whole_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(dtype=torch.float64).eval()
    batch = tiny.batch()
    expected = jacobians(model.train(), batch)
    values = []
    for direction in torch.eye(2, dtype=torch.float64):
        monkeypatch.setattr(Step, "output_noise", lambda step, d=direction: d.expand(step.clean_logits.shape))
        with Stack([JacobianPenalty()]) as stack:
            stack.prepare(model)
            stack.loss(model, batch)
            values.append(stack.take_logs()["jacobian_penalty"])
        slow = [2 * float((direction[:, None, None] * j).sum(0).square().sum()) for j in expected]
        assert values[-1] == pytest.approx(sum(slow) / len(slow), rel=1e-10)
    whole = sum(float(j.square().sum()) for j in expected) / len(expected)
    assert sum(values) / 2 == pytest.approx(whole, rel=1e-10)


def test_its_gradient_is_that_of_finite_differences() -> None:
    model, batch = tiny.model(dtype=torch.float64), tiny.batch()

    def loss() -> float:
        with Stack([JacobianPenalty()]) as stack:
            stack.prepare(model)
            return float(stack.loss(model, batch).detach())

    with tiny.one_update(model, [JacobianPenalty()], [batch]) as (_, _, gradients):
        pass
    weights = dict(model.named_parameters())
    for name in ("bert.pooler.dense.weight", "bert.encoder.layer.0.attention.self.query.weight"):
        weight, found = weights[name], gradients[name]
        at = tuple(int(i) for i in torch.unravel_index(found.abs().argmax(), found.shape))
        sides = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[at] += step
            sides.append(loss())
            with torch.no_grad():
                weight[at] -= step
        assert float(found[at]) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-6)


def test_explain_names_the_pass_through_the_gradient() -> None:
    explanation = Stack([JacobianPenalty()]).explain()
    assert "1 through a gradient" in explanation.totals()
    assert explanation.relative_cost == 3.0
