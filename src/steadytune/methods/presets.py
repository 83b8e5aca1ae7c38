"""Papers as aliases: what a paper calls one method, and its published variants."""

from __future__ import annotations

from typing import Any

from steadytune.core.method import LossMethod
from steadytune.methods.bregman import Bregman
from steadytune.methods.smoothness import Smoothness


class _Smart:
    """SMART (Jiang et al., ACL 2020): the smoothness regularizer and momentum Bregman proximal point optimization.

    ``smart(weight=3.0)`` returns both methods, as a group that a stack takes. For the ablations of the paper's table 3
    use one half alone: ``smoothness()`` is SMART without D_Breg, ``bregman()`` SMART without R_s.

    Example:
        >>> from steadytune import smart
        >>> [m.name for m in smart()], [m.name for m in smart.mt_dnn()]
        (['smoothness', 'bregman'], ['smoothness'])
    """

    def __call__(
        self, weight: float = 1.0, proximal_weight: float = 1.0, *, beta: float = 0.999, **smoothness: Any
    ) -> tuple[LossMethod, ...]:
        """Both halves with the paper's defaults.

        Args:
            weight: lambda_s, factor of the smoothness regularizer (paper: 1, 3 or 5).
            proximal_weight: mu, factor of the Bregman term (paper: 1).
            beta: decay of the teacher's average after the first 10 % of the updates.
            smoothness: other settings of `Smoothness`, such as ``radius`` or ``masks``.
        """
        return (Smoothness(weight=weight, **smoothness), Bregman(weight=proximal_weight, beta=beta))

    def paper(self, weight: float = 1.0, proximal_weight: float = 1.0) -> tuple[LossMethod, ...]:
        """Every setting of the paper written out: epsilon = sigma = 1e-5, eta = 1e-3, S = K = 1, beta .99, then .999.

        Args:
            weight: lambda_s.
            proximal_weight: mu.
        """
        return (
            Smoothness(weight=weight, radius=1e-5, noise_std=1e-5, step_size=1e-3, ascent_steps=1, projection="linf"),
            Bregman(
                weight=proximal_weight,
                beta=0.999,
                early_beta=0.99,
                early_fraction=0.1,
                momentum=True,
                inner_steps=1,
            ),
        )

    def mt_dnn(self, weight: float = 1.0) -> tuple[LossMethod, ...]:
        """The perturbation of the code released with the paper: R_s alone, and a radius of 1 per token.

        After each step the whole perturbation of a token is divided by its largest entry, so its size is 1 whatever
        the step: five orders of magnitude above the paper's. Not taken over: the perturbed padding, the ascent on a
        quantity that is no divergence, and the halved gradient of the regularizer.

        Args:
            weight: factor of the regularizer in the loss.
        """
        return (
            Smoothness(weight=weight, radius=1.0, noise_std=1e-5, step_size=1e-3, ascent_steps=1, projection="token"),
        )


smart = _Smart()
