"""Natural language inference beyond GLUE: SNLI, SciTail, ANLI, HANS, and ChaosNLI with its annotators' labels."""

from __future__ import annotations

from steadytune.tasks.named.glue import NLI_LABELS
from steadytune.tasks.task import SplitSource, Task

FAMILY = "inference"
_ANLI = "Nie et al. (2020), Adversarial NLI, https://arxiv.org/abs/1910.14599"
_CHAOS = "Nie et al. (2020), What Can We Learn from Collective Human Opinions, https://arxiv.org/abs/2010.03532"
_ROUNDS = ("r1", "r2", "r3")


def _task(
    name: str,
    labels: tuple[str, ...],
    description: str,
    citation: str,
    *,
    splits: dict[str, str],
    sources: tuple[SplitSource, ...],
    train_on: str | None = None,
) -> Task:
    """A task of premise and hypothesis, scored by accuracy; for evaluation only when it names a task to train on."""
    return Task(
        name=name,
        head="classification",
        description=description,
        citation=citation,
        text_column="premise",
        text_pair_column="hypothesis",
        label_column="label",
        label_names=labels,
        splits=splits,
        metric="accuracy",
        metrics=("accuracy",),
        family=FAMILY,
        evaluation_only=train_on is not None,
        train_on=train_on,
        sources=sources,
    )


def _anli(name: str, rounds: tuple[str, ...]) -> Task:
    """Rounds of ANLI: their train rows together, their dev rows as `validation`, or one split for each round."""
    splits: dict[str, str] = {}
    sources: list[SplitSource] = []
    for kind, ours in (("train", "train"), ("dev", "validation"), ("test", "test")):
        for part in rounds:
            split = ours if len(rounds) == 1 or ours != "test" else f"{ours}_{part}"
            splits[split] = f"the official {kind} rows of {', '.join(rounds) if split == ours else part}"
            sources.append(SplitSource(split, f"anli/{kind}_{part}", "facebook/anli", "plain_text", f"{kind}_{part}"))
    description = (
        f"Does the premise entail the hypothesis? Written to fool models, round{'s' * (len(rounds) > 1)} "
        f"{', '.join(part[1] for part in rounds)}."
    )
    return _task(name, NLI_LABELS, description, _ANLI, splits=splits, sources=tuple(sources))


def _chaos(part: str) -> Task:
    """The validation rows of SNLI or MNLI with five original and a hundred new labels."""
    return _task(
        f"chaosnli-{part}",
        NLI_LABELS,
        f"Validation rows of {part.upper()} on which annotators disagree: `annotator_labels` are the five original "
        "labels, `label_count` counts a hundred new ones by class.",
        _CHAOS,
        splits={"validation": "1,514 rows" if part == "snli" else "1,599 rows"},
        sources=(SplitSource("validation", f"chaosnli/{part}/validation"),),
        train_on=part,
    )


TASKS = (
    _task(
        "snli",
        NLI_LABELS,
        "Does the caption of a picture entail the hypothesis, contradict it, or neither?",
        "Bowman et al. (2015), SNLI, https://arxiv.org/abs/1508.05326",
        splits={
            split: f"the official {split} rows; those without a gold label are refused"
            for split in ("train", "validation", "test")
        },
        sources=tuple(
            SplitSource(split, f"snli/{split}", "stanfordnlp/snli", "plain_text", split)
            for split in ("train", "validation", "test")
        ),
    ),
    _task(
        "scitail",
        ("entailment", "neutral"),
        "Does a sentence of a science text entail the answer to a school exam's question?",
        "Khot et al. (2018), SciTail, https://aaai.org/papers/12022",
        splits={split: f"the official {split} rows" for split in ("train", "validation", "test")},
        sources=tuple(
            SplitSource(split, f"scitail/{split}", "allenai/scitail", "tsv_format", split)
            for split in ("train", "validation", "test")
        ),
    ),
    *(_anli(f"anli-{part}", (part,)) for part in _ROUNDS),
    _anli("anli", _ROUNDS),
    _task(
        "hans",
        ("entailment", "non-entailment"),
        "Does the premise entail the hypothesis? Pairs on which word overlap and syntax mislead (three heuristics).",
        "McCoy et al. (2019), Right for the Wrong Reasons, https://arxiv.org/abs/1902.01007",
        splits={"validation": "30,000 rows from templates"},
        sources=(
            SplitSource(
                "validation", "hans/validation", "jhu-cogsys/hans", "plain_text", "validation", out_of_domain=True
            ),
        ),
        train_on="mnli",
    ),
    *(_chaos(part) for part in ("snli", "mnli")),
)
