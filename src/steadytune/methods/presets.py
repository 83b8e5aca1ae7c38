"""Papers as aliases: what a paper calls one method, and its published variants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from steadytune.core.authoring import LossMethod, Masks, Method, refuse_unknown_settings
from steadytune.methods.bregman import Bregman
from steadytune.methods.entry import preset
from steadytune.methods.r3f import R3F
from steadytune.methods.sam import SAM
from steadytune.methods.smoothness import Smoothness
from steadytune.methods.spectral_norm import SpectralNorm
from steadytune.methods.weight_averaging import WeightAveraging


class _Smart:
    """SMART (Jiang et al., ACL 2020): the smoothness regularizer and momentum Bregman proximal point optimization.

    ``smart(weight=3.0)`` returns both methods, as a group that a stack takes. For the ablations of the paper's table 3
    use one half alone: ``smoothness()`` is SMART without D_Breg, ``bregman()`` SMART without R_s.

    Example:
        >>> from steadytune import smart
        >>> [m.name for m in smart()], [m.name for m in smart.mt_dnn()]
        (['smoothness', 'bregman'], ['smoothness'])
    """

    @preset("smoothness + bregman, the paper's defaults", takes=Smoothness)
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
        _refuse_unknown("smart", smoothness, Smoothness, "proximal_weight", "beta")
        return (Smoothness(weight=weight, **smoothness), Bregman(weight=proximal_weight, beta=beta))

    def __repr__(self) -> str:
        return "smart"

    @preset("the paper's settings, written out")
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

    @preset("smart on a random part of the examples", takes=Smoothness)
    def frugal(
        self, weight: float = 1.0, proximal_weight: float = 1.0, *, one_in: int = 8, **smoothness: Any
    ) -> tuple[LossMethod, ...]:
        """Both halves at a fraction of the cost: R_s on an eighth of the examples, D_Breg in an eighth of the updates.

        Both are drawn at random and weighed so that the expectation is the whole term: 1.25 times the arithmetic of a
        plain step in place of 3. ``docs/methods/frugal.md`` has the measured price and what is left of the gain.

        Args:
            weight: lambda_s, of the whole regularizer.
            proximal_weight: mu, of the whole term.
            one_in: apply R_s to 1 in N examples and D_Breg in 1 of N updates; 5 costs 1.4 times a plain step.
            smoothness: other settings of `Smoothness`.

        Example:
            >>> from steadytune import Stack, smart
            >>> Stack([smart.frugal()]).explain().relative_cost
            1.25
        """
        _refuse_unknown("smart.frugal", smoothness, Smoothness, "proximal_weight")
        return (
            Smoothness(weight=weight, one_in=one_in, **smoothness),
            Bregman(weight=proximal_weight, every=one_in),
        )

    @preset("smoothness alone, the best measured on few rows", takes=Smoothness)
    def recommended(self, weight: float = 1.0, **smoothness: Any) -> tuple[LossMethod, ...]:
        """What measured best of SMART's parts: R_s with fresh dropout masks, without the Bregman term.

        On 128 rows of SST-2 with minilm, ten seeds, R_s was level with tuned plain training, and the Bregman term cost
        0.02 of accuracy, alone and on top of it (``docs/start/which-method.md``). One model, one task and 40 updates:
        for thousands of updates try ``smart()`` as well.

        Args:
            weight: lambda_s.
            smoothness: other settings of `Smoothness`.

        Example:
            >>> from steadytune import smart
            >>> [m.name for m in smart.recommended()]
            ['smoothness']
        """
        _refuse_unknown("smart.recommended", smoothness, Smoothness)
        return (Smoothness(weight=weight, **smoothness),)

    @preset("as in the released code: radius 1 a token, no bregman")
    def mt_dnn(self, weight: float = 1.0) -> tuple[LossMethod, ...]:
        """The perturbation of the code released with the paper: R_s alone, and a radius of 1 per token.

        After each step the whole perturbation of a token is divided by its largest entry, so its size is 1 whatever
        the step: five orders of magnitude above the paper's. Not taken over: the perturbed padding, the ascent on a
        quantity that is no divergence, and the detached targets of the regularizer, which leave half of its gradient.

        Args:
            weight: factor of the regularizer in the loss.
        """
        return (
            Smoothness(weight=weight, radius=1.0, noise_std=1e-5, step_size=1e-3, ascent_steps=1, projection="token"),
        )


def _refuse_unknown(preset: str, given: Iterable[str], method: type[Method], *others: str) -> None:
    """Name the preset, where the method that its settings go to would name itself."""
    refuse_unknown_settings(preset, given, [*(f.name for f in fields(method)), *others])


smart = _Smart()


@preset("bregman with one decay and the teacher's own dropout")
def mean_teacher(weight: float = 1.0, beta: float = 0.999) -> Bregman:
    """Mean Teacher (Tarvainen & Valpola, NeurIPS 2017) as SMART reads it: the momentum form of the Bregman term.

    One decay from the first update on, and dropout masks of the teacher's own. The distance is SMART's l_s where the
    original takes the squared difference of probabilities.

    Args:
        weight: factor of the consistency term in the loss.
        beta: decay of the teacher's average.
    """
    return Bregman(weight=weight, beta=beta, early_fraction=0.0, masks="fresh")


@preset("r3f + spectral_norm", takes=R3F)
def r4f(weight: float = 1.0, **r3f: Any) -> tuple[Method, ...]:
    """R4F (Aghajanyan et al., ICLR 2021): R3F, and a head whose spectral norm is 1.

    Args:
        weight: lambda, factor of R3F's term.
        r3f: other settings of `R3F`.
    """
    _refuse_unknown("r4f", r3f, R3F)
    return (R3F(weight=weight, **r3f), SpectralNorm())


@preset("sam with a radius in proportion to each weight")
def asam(rho: float = 0.5, masks: Masks = "fresh") -> SAM:
    """ASAM (Kwon et al., ICML 2021): SAM with a perturbation in proportion to each weight.

    Args:
        rho: radius, relative to the weights.
        masks: dropout masks of the second pass.
    """
    return SAM(rho=rho, adaptive=True, masks=masks)


@preset("weight_averaging, exponential")
def ema(decay: float = 0.999) -> WeightAveraging:
    """An exponential moving average of the weights, put into the model at the end.

    Args:
        decay: weight of the past in each step of the average.
    """
    return WeightAveraging(kind="ema", decay=decay)


@preset("weight_averaging, equal over the last part")
def swa(start: float = 0.75, every: int = 1) -> WeightAveraging:
    """Stochastic weight averaging (Izmailov et al., UAI 2018): an equal average over the last part of the training.

    Args:
        start: where that part begins, as a fraction of all updates.
        every: updates between two weights that are averaged.
    """
    return WeightAveraging(kind="swa", start=start, every=every)
