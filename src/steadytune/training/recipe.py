"""How long, how fast and in which batches to train where the user does not say: one pure function, with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Parameters: below the first a model is small, from the second on large (BERT base has 110 million), then huge.
SMALL, LARGE, HUGE = 50_000_000, 300_000_000, 1_000_000_000
#: Updates below which fine-tuning on few rows ends before it has learned (Mosbach et al. 2021, Zhang et al. 2021).
FEWEST_UPDATES = 200
#: Updates for each class: a head of many classes begins with more to learn.
UPDATES_PER_CLASS = 4
#: Passes over the rows: however many rows there are, and however few.
FEWEST_EPOCHS, MOST_EPOCHS = 3, 100
#: Tokens: a shorter limit saves nothing, because batches are padded to their longest row only.
SHORTEST_LIMIT = 128


@dataclass(frozen=True)
class ModelFacts:
    """What the recipe asks of a model.

    Attributes:
        parameters: numbers in its weights; ``None`` where they are not on this machine.
        sentence_encoder: trained to give vectors of whole texts, told by ``modules.json`` or a configured pooling.
    """

    parameters: int | None = None
    sentence_encoder: bool = False


@dataclass(frozen=True)
class RowFacts:
    """What the recipe asks of the training rows.

    Attributes:
        rows: how many train.
        classes: of the head; 1 for a number.
        tokens: 99 % of the rows are not longer; ``None`` where the length is not the recipe's to choose.
        limit: tokens that the model reads.
        batch: rows of a micro-batch, where the user says it.
        batches: micro-batches of an update.
    """

    rows: int
    classes: int = 1
    tokens: int | None = None
    limit: int = 512
    batch: int | None = None
    batches: int = 1


@dataclass(frozen=True)
class Recipe:
    """What the recipe chooses, named as the settings are.

    Attributes:
        learning_rates: the rates worth comparing, the smallest first; ``learning_rate`` is among them.
        reason: one clause on each choice.
    """

    learning_rate: float
    learning_rates: tuple[float, float, float]
    num_train_epochs: float
    per_device_train_batch_size: int
    max_length: int | None
    warmup_steps: float
    updates: int
    reason: str


def recipe(rows: RowFacts, model: ModelFacts) -> Recipe:
    """Choose the settings of a run from its rows and its model.

    Few rows need many passes: fine-tuning that fails on little data mostly ends too early. The rate falls with the
    size of the model; a tenth of the updates warms up, and Adam corrects its bias (as PyTorch's does).

    Args:
        rows: facts about the training rows.
        model: facts about the model.

    >>> found = recipe(RowFacts(rows=64, classes=2), ModelFacts(22_700_000, sentence_encoder=True))
    >>> found.learning_rate, found.num_train_epochs, found.per_device_train_batch_size, found.updates
    (0.0003, 25.0, 8, 200)
    >>> recipe(RowFacts(rows=20_000, classes=2), ModelFacts(110_000_000)).num_train_epochs
    3.0
    """
    batch = rows.batch or (8 if rows.rows < 200 else 16 if rows.rows < 10_000 else 32)
    per_epoch = max(1, math.ceil(rows.rows / (batch * rows.batches)))
    wanted = max(FEWEST_UPDATES, UPDATES_PER_CLASS * rows.classes)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(wanted / per_epoch)))
    rates, why = learning_rates(model)
    return Recipe(
        learning_rate=rates[1],
        learning_rates=rates,
        num_train_epochs=float(epochs),
        per_device_train_batch_size=batch,
        max_length=None if rows.tokens is None else _length(rows.tokens, rows.limit),
        warmup_steps=0.1,
        updates=per_epoch * epochs,
        reason=f"{why}; {per_epoch * epochs:,} updates, of which few rows need at least {wanted}",
    )


def learning_rates(model: ModelFacts) -> tuple[tuple[float, float, float], str]:
    """The rates worth comparing, the middle one the best guess, and why.

    BERT's authors took 2e-5 to 5e-5 for the base size and up to 3e-4 for their small models.

    >>> learning_rates(ModelFacts(22_700_000, sentence_encoder=True))
    ((0.0001, 0.0003, 0.0005), 'a small sentence encoder of 23 million parameters')
    >>> learning_rates(ModelFacts())[0]
    (2e-05, 3e-05, 5e-05)
    """
    kind = "sentence encoder" if model.sentence_encoder else "model"
    if model.parameters is None:
        return (2e-5, 3e-5, 5e-5), f"a {kind} taken to be of the base size"
    of = f"{kind} of {model.parameters / 1e6:,.0f} million parameters"
    if model.parameters < SMALL:
        return ((1e-4, 3e-4, 5e-4) if model.sentence_encoder else (1e-4, 2e-4, 5e-4)), f"a small {of}"
    if model.parameters < LARGE:
        return (2e-5, 5e-5, 1e-4) if model.sentence_encoder else (2e-5, 3e-5, 5e-5), f"a base-size {of}"
    if model.parameters < HUGE:
        return (1e-5, 2e-5, 3e-5), f"a large {of}"
    return (5e-6, 1e-5, 2e-5), f"a very large {of}"


def _length(tokens: int, limit: int) -> int:
    return min(limit, max(SHORTEST_LIMIT, 8 * math.ceil(tokens / 8)))
