"""Whether the output stays where it is when the word embeddings move a little: what SMART's regularizer is to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steadytune.core.arithmetic.ascent import ascend, gradient_to, sentence_norm
from steadytune.core.arithmetic.randomness import derive_seed
from steadytune.evaluation.measures.passes import Asked, Batch, at_rest

#: The paper's step size (SMART, section 4.1), and how often the search for the steepest direction is repeated.
STEP_SIZE = 1e-3
LIPSCHITZ_STEPS = 5


@dataclass(frozen=True)
class Ratio:
    """``||f(x + d) - f(x)|| / ||d||`` over examples, f being logits and both norms L2 of a whole example."""

    mean: float
    largest: float


@dataclass(frozen=True)
class Smoothness:
    """How far outputs move at one radius, without dropout.

    Attributes:
        items: predictions that were looked at.
        adversarial: mean divergence at SMART's adversary: symmetric KL in nats, for regression a squared difference.
        random: the same at a random perturbation that is as long in every example.
        lipschitz: the steepest direction found, a lower bound of the local Lipschitz constant.
        random_lipschitz: the same ratio in the random direction.
    """

    items: int
    adversarial: float
    random: float
    lipschitz: Ratio
    random_lipschitz: Ratio


def smoothness(
    model: nn.Module,
    batches: Iterable[Batch],
    radius: float,
    *,
    ascent_steps: int = 1,
    step_size: float = STEP_SIZE,
    seed: int = 0,
) -> Smoothness:
    """Measure R_s of SMART (Jiang et al., ACL 2020, equation 1) and the local Lipschitz ratio of the logits.

    The adversary is the paper's: a Gaussian start of standard deviation ``radius``, ``ascent_steps`` steps up the
    divergence, and the L-infinity ball of ``radius`` (algorithm 1, lines 6 to 10). The steepest direction is sought by
    power iteration on the Jacobian, in the L2 ball that the adversary reached. Use float64 where you can: at 1e-5
    float32 rounds a part of the change away.

    Args:
        model: with any head whose outputs can be compared.
        batches: gone through once; labels say which predictions count.
        radius: epsilon, above 0.
        ascent_steps: K.
        step_size: eta.
        seed: of the start and of the random directions.
    """
    items, adversarial, random = 0, 0.0, 0.0
    ratios: list[Tensor] = []
    random_ratios: list[Tensor] = []
    with at_rest(model):
        for number, batch in enumerate(batches):
            asked = Asked(model, batch)
            start, direction = (
                asked.normal(radius, torch.Generator(asked.seen.device).manual_seed(derive_seed(seed, number, what)))
                for what in ("start", "random")
            )
            delta, _ = ascend(
                lambda d, asked=asked: asked.divergence(asked.moved(d)).sum(),
                start.clamp(-radius, radius),
                steps=ascent_steps,
                step_size=step_size,
                radius=radius,
            )
            delta = torch.where(asked.mask.unsqueeze(-1), delta, delta.new_zeros(()))
            moved_at_random = direction * (sentence_norm(delta) / sentence_norm(direction))
            with torch.no_grad():
                answer, random_answer = asked.moved(delta), asked.moved(moved_at_random)
            adversarial += float(asked.divergence(answer).double().sum())
            random += float(asked.divergence(random_answer).double().sum())
            items += asked.items()
            random_ratios.append(_ratio(asked, random_answer, moved_at_random).cpu())
            first = torch.maximum(_ratio(asked, answer, delta).cpu(), random_ratios[-1])
            ratios.append(torch.maximum(first, _steepest(asked, delta)))
    return Smoothness(
        items, adversarial / max(items, 1), random / max(items, 1), _summary(ratios), _summary(random_ratios)
    )


def _steepest(asked: Asked, delta: Tensor) -> Tensor:
    """The largest ratio on the way up the shift, in the L2 ball through ``delta``: ``(batch,)``."""
    radius = sentence_norm(delta)
    best = torch.zeros(len(delta), dtype=delta.dtype)
    for _ in range(LIPSCHITZ_STEPS):
        delta = delta.detach().requires_grad_(True)
        answer = asked.moved(delta)
        best = torch.maximum(best, _ratio(asked, answer.detach(), delta.detach()).cpu())
        gradient = gradient_to(asked.shift(answer).square().sum(), delta)
        gradient = torch.where(torch.isfinite(gradient), gradient, gradient.new_zeros(()))
        delta = radius * gradient / sentence_norm(gradient)  # the gradient is 2 J'J delta
    return best


def _ratio(asked: Asked, answer: Tensor, delta: Tensor) -> Tensor:
    return asked.shift(answer) / sentence_norm(delta).flatten()


def _summary(parts: list[Tensor]) -> Ratio:
    joined = torch.cat(parts).double() if parts else torch.zeros(1, dtype=torch.float64)
    return Ratio(float(joined.mean()), float(joined.max()))
