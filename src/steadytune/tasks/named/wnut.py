"""WNUT-17: rare and emerging entities in posts of social media."""

from __future__ import annotations

from steadytune.tasks.task import SplitSource, Task

_KINDS = ("corporation", "creative-work", "group", "location", "person", "product")

TASKS = (
    Task(
        name="wnut17",
        head="token_classification",
        description="Which words of a post name a person, a place, a product ...? Entities seldom seen in training.",
        citation="Derczynski et al. (2017), WNUT-17, https://aclanthology.org/W17-4418",
        text_column="tokens",
        text_pair_column=None,
        label_column="ner_tags",
        label_names=("O", *(f"{place}-{kind}" for kind in _KINDS for place in "BI")),
        splits={split: f"the official {split} rows" for split in ("train", "validation", "test")},
        metric="f1",
        metrics=("f1", "surface_f1"),
        family="WNUT",
        sources=tuple(
            SplitSource(split, f"wnut17/{split}", "leondz/wnut_17", "wnut_17", split)
            for split in ("train", "validation", "test")
        ),
    ),
)
