"""What a trained model was given: head, columns, pairs and length, kept beside its weights for later predictions."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from steadytune.errors import DamagedCheckpointError
from steadytune.heads.columns import LABEL
from steadytune.heads.head import Predicts
from steadytune.heads.registry import HEADS, head_of
from steadytune.support.reading import read_json
from steadytune.support.writing import write_text
from steadytune.tasks.task import Head, Task

FILE_NAME = "steadytune_inputs.json"
FORMAT = 1
#: The column of what is predicted, by head, where it is not called `label`.
_LABEL_COLUMNS: dict[str, str] = {
    "token_classification": "tags",
    "question_answering": "answers",
    "causal_lm": "answer",
}


@dataclass(frozen=True)
class ModelInputs:
    """How rows become what a trained model takes.

    Attributes:
        head: what the model predicts.
        text_column: column of text, words, question or prompt.
        text_pair_column: column of the second text or of the context; ``None`` for single texts.
        label_column: column of label, tags or answers.
        max_length: longest input, in tokens; ``None`` if only the model itself limits it.
        is_pair: whether rows have two texts; ``None`` if that is not known.
        task: the named task that the model was trained on, if any.
    """

    head: Head
    text_column: str
    text_pair_column: str | None
    label_column: str
    max_length: int | None = None
    is_pair: bool | None = None
    task: str | None = None

    @property
    def predicts(self) -> Predicts:
        """What a prediction is, see `heads.head.TaskHead`."""
        return head_of(self.head).predicts

    @classmethod
    def usual(cls, head: Head) -> ModelInputs:
        """The columns that rows of a head usually have.

        >>> ModelInputs.usual("question_answering").text_pair_column
        'context'
        """
        text, *others = head_of(head).input_columns
        pair = others[0] if others else None
        is_pair = None if head_of(head).layout == "texts" else pair is not None
        return cls(head, text, pair, _LABEL_COLUMNS.get(head, LABEL), is_pair=is_pair)

    @classmethod
    def of_task(cls, task: Task, *, named: bool, is_pair: bool, max_length: int) -> ModelInputs:
        """Those of a task that a model is trained on.

        Args:
            task: its record.
            named: whether it is a named task, not the user's own files.
            is_pair: whether its rows have two texts.
            max_length: longest input, in tokens.
        """
        usual = cls.usual(task.head)
        return replace(
            usual,
            text_column=task.text_column or usual.text_column,
            text_pair_column=(task.text_pair_column or usual.text_pair_column) if is_pair else None,
            label_column=task.label_column or usual.label_column,
            max_length=max_length,
            is_pair=is_pair,
            task=task.name if named else None,
        )

    def write(self, folder: Path) -> None:
        """Write them into the folder of a model, which the caller replaces as a whole."""
        content = json.dumps({"format": FORMAT, **asdict(self)}, indent=2)
        write_text(folder / FILE_NAME, content + "\n")


def read_inputs(folder: Path) -> ModelInputs | None:
    """The inputs of a model that was trained here; ``None`` for other models.

    Raises:
        DamagedCheckpointError: the file is damaged, or of a newer version.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        return None
    try:
        content = read_json(file)
        known = {name: content[name] for name in ModelInputs.__dataclass_fields__}
        inputs = ModelInputs(**known)
        texts = (inputs.text_column, inputs.label_column, inputs.text_pair_column or "", inputs.task or "")
        sound = content["format"] == FORMAT and inputs.head in HEADS
        sound = sound and all(isinstance(text, str) for text in texts)
        sound = sound and (inputs.max_length is None or (type(inputs.max_length) is int and inputs.max_length > 0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{file}: is damaged ({error!r}); delete it to use the usual columns.") from error
    if not sound:
        raise DamagedCheckpointError(f"{file}: is damaged, or of a newer version; delete it to use the usual columns.")
    return inputs
