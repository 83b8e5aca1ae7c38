"""The options of an evaluation, and the names of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, field_validator

from steadytune.errors import SettingsError, did_you_mean
from steadytune.settings.fields import MODEL, MOST, setting
from steadytune.settings.groups import DataFolderSettings, LimitSettings

PARTS, NOISE = "What is measured", "How finely"

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


def _as_parts(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parts = [name.strip().replace("-", "_") for name in value.split(",") if name.strip()]
    if not parts:
        raise SettingsError("--only: names no part; leave it out for all of them.")
    return parts


def _as_numbers(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return [float(part) for part in value.split(",") if part.strip()]
    except ValueError:
        raise ValueError("write numbers separated by commas, such as 0.05,0.1") from None


class EvaluateOptions(LimitSettings, DataFolderSettings):
    """What to measure, and how finely. Empty or ``None`` stands for all parts, and for the run's own settings.

    Example:
        >>> EvaluateOptions(only="calibration,movement").only
        ['calibration', 'movement']

    Raises:
        SettingsError: one of them is out of range.
    """

    model_config = ConfigDict(frozen=True)

    only: Annotated[Sequence[str], BeforeValidator(_as_parts)] = setting(
        [],
        f"Parts to measure (default: all): {', '.join(NAMES)}.",
        PARTS,
        first=2,
        metavar="PART,PART",
        completes="parts",
    )
    seeds: int = setting(3, "Seeds of the noise on texts.", NOISE, ge=1, le=MOST)
    rates: Annotated[Sequence[float], BeforeValidator(_as_numbers)] = setting(
        [0.05, 0.1, 0.2], "Rates of the noise on texts.", NOISE, metavar="X,X"
    )
    radii: Annotated[Sequence[float], BeforeValidator(_as_numbers)] = setting(
        [0.0003, 0.001, 0.003, 0.01], "Radii of the attack on the word embeddings.", NOISE, metavar="X,X"
    )
    layer: int | None = setting(
        None,
        "Layer whose states are averaged to sentence vectors, 0 for the embeddings (default: a middle one).",
        NOISE,
        ge=0,
    )
    trust_remote_code: bool = setting(
        False, "Run code that the model brings along, whatever the run's own settings say.", MODEL
    )

    @property
    def retrieval_alone(self) -> bool:
        """Whether nothing but sentence retrieval is asked for, which needs no rows of a run and no head."""
        return set(self.only) == {"retrieval"}

    @field_validator("only")
    @classmethod
    def _known_parts(cls, only: Sequence[str]) -> Sequence[str]:
        for name in only:
            if name not in NAMES:
                near = did_you_mean(name, NAMES)
                raise SettingsError(f"--only: there is no part {name!r}; known are {', '.join(NAMES)}.{near}")
        return only

    @field_validator("rates")
    @classmethod
    def _shares(cls, rates: Sequence[float]) -> Sequence[float]:
        if not rates or not all(0 < rate <= 1 for rate in rates):
            raise ValueError("must be above 0 and at most 1")
        return rates

    @field_validator("radii")
    @classmethod
    def _lengths(cls, radii: Sequence[float]) -> Sequence[float]:
        if not radii or not all(0 < radius <= 1e6 for radius in radii):
            raise ValueError("must be above 0")
        return radii
