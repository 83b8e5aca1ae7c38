"""Adversarial GLUE: validation rows of GLUE tasks, attacked in words and sentences and checked by people."""

from __future__ import annotations

from dataclasses import replace

from steadytune.tasks.named import glue
from steadytune.tasks.task import SplitSource, Task

FAMILY = "Adversarial GLUE"
_CITATION = "Wang et al. (2021), Adversarial GLUE, https://arxiv.org/abs/2111.02840"
#: Our name, the GLUE task, the folder's and the Hub's name.
_PARTS = (
    ("adv-sst2", "sst2", "sst2", "adv_sst2"),
    ("adv-qqp", "qqp", "qqp", "adv_qqp"),
    ("adv-mnli", "mnli", "mnli", "adv_mnli"),
    ("adv-mnli-mismatched", "mnli", "mnli_mm", "adv_mnli_mismatched"),
    ("adv-qnli", "qnli", "qnli", "adv_qnli"),
    ("adv-rte", "rte", "rte", "adv_rte"),
)
_ATTACKED = {task.name: task for task in glue.TASKS}


def _task(name: str, attacked: str, part: str, config: str) -> Task:
    """The record of the attacked task, with the adversarial rows for its only split."""
    source = SplitSource(
        "validation", f"adv_glue/validation_{part}", "AI-Secure/adv_glue", config, "validation", out_of_domain=True
    )
    return replace(
        _ATTACKED[attacked],
        name=name,
        description=f"{_ATTACKED[attacked].description} Rows attacked until models fail, checked by people.",
        citation=_CITATION,
        splits={"validation": "the adversarial development rows"},
        metric="accuracy",
        metrics=("accuracy", "f1") if attacked == "qqp" else ("accuracy",),
        family=FAMILY,
        evaluation_only=True,
        train_on=attacked,
        sources=(source,),
    )


TASKS = tuple(_task(*part) for part in _PARTS)
