"""GLUE, one row per task. The Hub hides the labels of its test splits (all but MRPC's), so they are not loaded."""

from __future__ import annotations

from collections.abc import Mapping

from steadytune.tasks.task import Head, SplitSource, Task

HUB = "nyu-mll/glue"
FAMILY = "GLUE"
GLUE = "Wang et al. (2018), GLUE, https://gluebenchmark.com"
NLI_LABELS = ("entailment", "neutral", "contradiction")

_TRAIN_AND_VALIDATION = {"train": "train", "validation": "validation"}
_HIDDEN = "not loaded: the Hub hides its labels"


def _task(
    name: str,
    columns: tuple[str, str | None],
    labels: tuple[str, ...] | None,
    metrics: tuple[str, ...],
    description: str,
    *,
    source: str,
    splits: Mapping[str, str] = _TRAIN_AND_VALIDATION,
    out_of_domain: tuple[str, ...] = (),
) -> Task:
    """A GLUE task; `splits` maps our names of the splits to the Hub's."""
    head: Head = "regression" if labels is None else "classification"
    words = {ours: f"the official {theirs} rows" for ours, theirs in splits.items()}
    return Task(
        name=name,
        head=head,
        description=description,
        citation=f"{source}; in {GLUE}",
        text_column=columns[0],
        text_pair_column=columns[1],
        label_column="label",
        label_names=labels,
        splits=words if "test" in splits else {**words, "test": _HIDDEN},
        metric=metrics[0],
        metrics=metrics,
        family=FAMILY,
        sources=tuple(
            SplitSource(ours, f"glue/{name}/{theirs}", HUB, name, theirs, out_of_domain=ours in out_of_domain)
            for ours, theirs in splits.items()
        ),
    )


_AX = Task(
    name="ax",
    head="classification",
    description="Does the premise entail the hypothesis? 1,104 hand-written diagnostic pairs, for models of MNLI.",
    citation=GLUE,
    text_column="premise",
    text_pair_column="hypothesis",
    label_column="label",
    label_names=NLI_LABELS,
    splits={"test": "the diagnostic rows with their labels; the ones in nyu-mll/glue are unlabeled and refused"},
    metric="matthews",
    metrics=("matthews",),
    family=FAMILY,
    evaluation_only=True,
    train_on="mnli",
    sources=(SplitSource("test", "glue/ax/test", "pietrolesci/glue_diagnostics", None, "test", out_of_domain=True),),
)

TASKS = (
    _task(
        "cola",
        ("sentence", None),
        ("unacceptable", "acceptable"),
        ("matthews",),
        "Is the sentence grammatical English?",
        source="Warstadt et al. (2019), CoLA, https://arxiv.org/abs/1805.12471",
    ),
    _task(
        "sst2",
        ("sentence", None),
        ("negative", "positive"),
        ("accuracy",),
        "Is the phrase of a movie review positive or negative?",
        source="Socher et al. (2013), SST, https://aclanthology.org/D13-1170",
    ),
    _task(
        "mrpc",
        ("sentence1", "sentence2"),
        ("not_equivalent", "equivalent"),
        ("f1", "accuracy"),
        "Do two sentences of news say the same?",
        source="Dolan and Brockett (2005), MRPC, https://aclanthology.org/I05-5002",
        splits={**_TRAIN_AND_VALIDATION, "test": "test"},
    ),
    _task(
        "stsb",
        ("sentence1", "sentence2"),
        None,
        ("pearson", "spearman"),
        "How alike are two sentences, from 0 to 5?",
        source="Cer et al. (2017), STS-B, https://arxiv.org/abs/1708.00055",
    ),
    _task(
        "qqp",
        ("question1", "question2"),
        ("not_duplicate", "duplicate"),
        ("f1", "accuracy"),
        "Do two questions on Quora ask the same?",
        source="Iyer et al. (2017), Quora Question Pairs, https://quoradata.quora.com",
    ),
    _task(
        "mnli",
        ("premise", "hypothesis"),
        NLI_LABELS,
        ("accuracy",),
        "Does the premise entail the hypothesis, contradict it, or neither?",
        source="Williams et al. (2018), MultiNLI, https://arxiv.org/abs/1704.05426",
        splits={
            "train": "train",
            "validation": "validation_matched",
            "validation_mismatched": "validation_mismatched",
        },
        out_of_domain=("validation_mismatched",),
    ),
    _task(
        "qnli",
        ("question", "sentence"),
        ("entailment", "not_entailment"),
        ("accuracy",),
        "Does the sentence of Wikipedia answer the question?",
        source="Rajpurkar et al. (2016), SQuAD, https://arxiv.org/abs/1606.05250",
    ),
    _task(
        "rte",
        ("sentence1", "sentence2"),
        ("entailment", "not_entailment"),
        ("accuracy",),
        "Does the first text entail the second?",
        source="Dagan et al. (2005) to Bentivogli et al. (2009), RTE 1, 2, 3 and 5",
    ),
    _task(
        "wnli",
        ("sentence1", "sentence2"),
        ("not_entailment", "entailment"),
        ("accuracy",),
        "Is the pronoun of the first sentence rightly replaced in the second?",
        source="Levesque et al. (2012), The Winograd Schema Challenge",
    ),
    _AX,
)
