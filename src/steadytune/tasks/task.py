"""What a task is: one declarative record, and the record together with its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from steadytune.errors import DataError
from steadytune.heads.registry import head_of

if TYPE_CHECKING:
    from datasets import Dataset

#: The name of a head; `heads.registry.head_of` returns its object.
Head = str


@dataclass(frozen=True)
class SplitSource:
    """Where the rows of one split are: a file in a data folder, and a split of a data set on the Hub.

    `file` is the path below the data folder without `.parquet`; `hub_id` is None where the Hub has no such rows.
    `identifier_prefix` takes only the rows whose `id` begins so, where one Hub split holds all languages. `language`
    is an ISO 639-1 code. A split with `out_of_domain` comes from another source than the training rows.
    """

    split: str
    file: str
    hub_id: str | None = None
    hub_config: str | None = None
    hub_split: str = ""
    language: str | None = None
    identifier_prefix: str | None = None
    out_of_domain: bool = False


@dataclass(frozen=True)
class Task:
    """A supervised task: what is read, what is predicted, how it is scored, and where its rows are.

    `label_names` holds the names of the classes, labels or tags in the order of their indices (the Hub's order); it
    is None for heads without classes and in the record of a task whose classes are only known from its rows. `splits`
    says in words what each split is, and `metric` is the key of the scores that counts as the result; `metrics` are
    all that the benchmark reports. `text_column`, `text_pair_column` and `label_column` are the names in the data set:
    of question, context and answers for question answering, of tokens and tags for tagging, of prompt and answer for
    language models.

    An `evaluation_only` task has no training rows; `train_on` names the task whose models it tests. `sources` says
    where the splits of a named task are; it is empty for the user's own files.

    >>> task = Task("toy", "classification", "A toy.", "nobody", "text", None, "label", ("no", "yes"), {}, "accuracy")
    >>> task.number_of_outputs
    2
    """

    name: str
    head: Head
    description: str
    citation: str
    text_column: str
    text_pair_column: str | None
    label_column: str
    label_names: tuple[str, ...] | None
    splits: Mapping[str, str] = field(hash=False)
    metric: str
    metrics: tuple[str, ...] = ()
    family: str = ""
    evaluation_only: bool = False
    train_on: str | None = None
    sources: tuple[SplitSource, ...] = ()

    @property
    def number_of_outputs(self) -> int | None:
        """Width of the head: one per class, label or tag, 1 for regression, None where classes do not decide it."""
        return head_of(self.head).number_of_outputs(self.label_names)

    @property
    def hub_id(self) -> str | None:
        """The data set on the Hub that the first split is read from."""
        return self.sources[0].hub_id if self.sources else None

    @property
    def hub_config(self) -> str | None:
        """The configuration of that data set."""
        return self.sources[0].hub_config if self.sources else None

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of a cross-lingual task, English first; empty for a task in one language."""
        found = dict.fromkeys(source.language for source in self.sources if source.language is not None)
        return tuple(found) if len(found) > 1 else ()

    def language_of(self, split: str) -> str | None:
        """Return the ISO 639-1 code of a split's language, or None where the record does not say."""
        return next((source.language for source in self.sources if source.split == split), None)


class RowCounts(NamedTuple):
    """How many data rows a split's source held, and how many of them the split uses."""

    read: int
    used: int


@dataclass(frozen=True)
class TaskData:
    """A task with its rows.

    The columns of every split follow from the head:

    - classification, regression: `text` (str), `text_pair` (str, only for pairs), `label` (int64 class index, or
      float64);
    - multi_label: the same texts, `label` a list of int8, 0 or 1, as long as `label_names`;
    - token_classification: `tokens` (list of str), `label` (list of int64, one per token);
    - question_answering: `id`, `question`, `context` (str), `answers` ({"text": list of str, "answer_start": list of
      int32}, offsets in code points; no answer at all: empty lists);
    - causal_lm: `prompt`, `answer` (str);
    - retrieval: `text`, `text_pair` (str), each the translation of the other.

    Named tasks may carry more: `annotator_labels` and `label_count` where annotators are known, `heuristic` for HANS.
    `train` and `validation` are there whenever the data can be trained on; `train` is absent for an `evaluation_only`
    task and where a data folder lacks it (see `training_rows`). A cross-lingual task has `validation` or `test` in
    English and `validation_<language>`, `test_<language>`. `out_of_domain` names the splits that come from another
    source than `train`. `notes` are sentences the user must get to see, such as how the validation rows were chosen.
    `found_in` is "folder", "cache", "hub", "wheel" or "files".
    """

    task: Task
    splits: dict[str, Dataset]
    out_of_domain: tuple[str, ...]
    counts: dict[str, RowCounts]
    notes: tuple[str, ...] = ()
    found_in: str = "files"

    def training_rows(self) -> Dataset:
        """Return the training split.

        Raises DataError (one line that says what to do) when there is none.
        """
        if "train" in self.splits:
            return self.splits["train"]
        name = self.task.name
        if self.task.evaluation_only:
            instead = f"; train on --task {self.task.train_on}, then evaluate on it" if self.task.train_on else ""
            raise DataError(f"--task {name} is for evaluation only{instead}.")
        source = next((source for source in self.task.sources if source.split == "train"), None)
        where = f": the data folder has no {source.file}.parquet" if source and self.found_in == "folder" else ""
        raise DataError(
            f"--task {name} has no training rows{where}; give them, or train on the Hub's (no --data-dir)."
        )
