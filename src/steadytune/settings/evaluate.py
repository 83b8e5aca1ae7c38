"""The options of an evaluation, and the names of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steadytune.errors import SettingsError, did_you_mean

#: The parts, and what each measures.
MEASURES = {
    "sets": "the scores on every set of rows",
    "annotators": "agreement with the people who gave the labels",
    "calibration": "how far the probabilities can be trusted",
    "movement": "how far the weights and states are from the pretrained model's",
    "perturbations": "the score under noise on the texts",
    "embedding_attack": "the accuracy under an attack on the word embeddings",
    "smoothness": "how much the outputs change near each text",
    "retrieval": "how well sentences find their translations",
}


NAMES = tuple(MEASURES)


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure, and how finely.

    Attributes:
        only: names of parts; all of them if empty.
        data_dir: folder with the data sets of named tasks; the run's own setting if ``None``.
        seeds: how often each noise is drawn.
        rates: of the noise on texts, above 0 to 1.
        radii: of the attack on the word embeddings, above 0.
        max_eval_samples: rows of a set; the run's own setting if ``None``.
        layer: whose states are averaged to sentence vectors, 0 for the embeddings; a middle one if ``None``.
        trust_remote_code: run code that the model brings along; what the run's own settings say does not count, for
            they may come from a stranger.

    Raises:
        SettingsError: one of them is out of range.
    """

    only: Sequence[str] = ()
    data_dir: str | None = None
    seeds: int = 3
    rates: Sequence[float] = (0.05, 0.1, 0.2)
    radii: Sequence[float] = (0.0003, 0.001, 0.003, 0.01)
    max_eval_samples: int | None = None
    layer: int | None = None
    trust_remote_code: bool = False

    @property
    def retrieval_alone(self) -> bool:
        """Whether nothing but sentence retrieval is asked for, which needs no rows of a run and no head."""
        return set(self.only) == {"retrieval"}

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in NAMES:
                raise SettingsError(f"--only: there is no part {name!r}; known are {', '.join(NAMES)}.{_near(name)}")
        if self.seeds < 1:
            raise SettingsError(f"--seeds: must be at least 1; got {self.seeds}.")
        if not self.rates or not all(0 < rate <= 1 for rate in self.rates):
            raise SettingsError(f"--rates: must be above 0 and at most 1; got {_joined(self.rates)}.")
        if not self.radii or not all(0 < radius <= 1e6 for radius in self.radii):
            raise SettingsError(f"--radii: must be above 0; got {_joined(self.radii)}.")
        if self.max_eval_samples is not None and self.max_eval_samples < 1:
            raise SettingsError(f"--max-eval-samples: must be at least 1; got {self.max_eval_samples}.")
        if self.layer is not None and self.layer < 0:
            raise SettingsError(f"--layer: must be at least 0; got {self.layer}.")


def _joined(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values) or "nothing"


def _near(name: str) -> str:
    return did_you_mean(name, NAMES)
