"""Which columns of a file a model reads, and how the columns that predictions add are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steadytune.errors import DataError, SettingsError, did_you_mean
from steadytune.heads.registry import head_of
from steadytune.models.inputs import ModelInputs
from steadytune.support.text import excerpt, listing
from steadytune.tasks.files import headers

PREDICTED, PROBABILITY = "predicted", "probability"


@dataclass(frozen=True)
class ChosenColumns:
    """The columns of a file that count.

    Attributes:
        text: column of text, words, question or prompt.
        text_pair: column of the second text or of the context; ``None`` for single texts.
        label: column of what is true; ``None`` where there is none.
    """

    text: str
    text_pair: str | None
    label: str | None


def choose_columns(
    found: Sequence[str], inputs: ModelInputs, asked: tuple[str | None, str | None, str | None], place: str
) -> ChosenColumns:
    """Return the columns that are asked for, else those of the training, else the usual ones of the head.

    A file with a single column needs no names.

    Args:
        found: the columns of the file.
        inputs: of the model.
        asked: names for text, second text and label that the user gave.
        place: the file, for messages.

    Raises:
        DataError: there is no such column.
        SettingsError: one column is asked to be two things.
    """
    usual = ModelInputs.usual(inputs.head)
    text = _named("--text-column", asked[0], found, place) or _first(found, inputs.text_column, usual.text_column)
    text = text or _usual(found, inputs)
    if text is None:
        raise _missing("text", inputs.text_column, found, place, "--text-column")
    pair = _named("--text-pair-column", asked[1], found, place)
    if pair is not None and inputs.is_pair is False:
        raise SettingsError(f"--text-pair-column {pair}: the model was trained on single texts.")
    if pair is None and inputs.is_pair is not False:
        pair = _first(found, inputs.text_pair_column, usual.text_pair_column)
        if pair is None and inputs.is_pair:
            wanted = inputs.text_pair_column or head_of(inputs.head).input_columns[1]
            raise _missing("second text", wanted, found, place, "--text-pair-column")
    label = _named("--label-column", asked[2], found, place) or _first(found, inputs.label_column, usual.label_column)
    if label in (text, pair) and asked[2] is None:
        label = None
    chosen = [name for name in (text, pair, label) if name is not None]
    for name in chosen:
        if chosen.count(name) > 1:
            raise SettingsError(f"the column {excerpt(name)} is asked to be two things; name different columns.")
    return ChosenColumns(text, pair, label)


def _named(option: str, name: str | None, found: Sequence[str], place: str) -> str | None:
    if name is not None and name not in found:
        raise DataError(
            f"{place}: no column {excerpt(name)}, which {option} names; found are {listing(list(found))}."
            f"{did_you_mean(name, found)}"
        )
    return name


def _first(found: Sequence[str], *names: str | None) -> str | None:
    """The first of the names that the file has; case, blanks and invisible letters are ignored."""
    for name in names:
        if name in found:
            return name
        near = [one for one in found if name is not None and headers.plain_name(one) == headers.plain_name(name)]
        if near:
            return near[0]
    return None


def _usual(found: Sequence[str], inputs: ModelInputs) -> str | None:
    """The only column with a usual name, or the only column."""
    names = {"tags": headers.WORDS, "text": headers.PROMPTS}.get(inputs.predicts, headers.TEXTS)
    near = headers.usual(found, frozenset(names))
    if len(near) == 1:
        return near[0]
    return found[0] if len(found) == 1 else None


def _missing(what: str, name: str, found: Sequence[str], place: str, option: str) -> DataError:
    return DataError(
        f"{place}: no column {excerpt(name)} for the {what}, as in training; found are {listing(list(found))}. Name "
        f"the column with {option}."
    )


def added_columns(prefix: str, classes: Iterable[str], *, with_probability: bool) -> list[str]:
    """The columns that predictions add, in their order.

    >>> added_columns("", ["bad", "good"], with_probability=True)
    ['predicted', 'probability', 'probability_bad', 'probability_good']
    """
    names = [PREDICTED, *([PROBABILITY] if with_probability else [])]
    return [f"{prefix}{name}" for name in (*names, *(f"{PROBABILITY}_{one}" for one in classes))]


def refuse_collisions(found: Sequence[str], added: Sequence[str], place: str) -> None:
    """Raise where a column that would be added is there already.

    Raises:
        SettingsError: it is.
    """
    both = [name for name in added if name in found]
    if both:
        raise SettingsError(
            f"{place}: has the column {excerpt(both[0])} already, which predictions would add; give another name to "
            "what is added, such as --column-prefix new_."
        )
    twice = [name for name in added if added.count(name) > 1]
    if twice:
        raise SettingsError(f"two columns would be called {excerpt(twice[0])}: two classes of the model share a name.")
