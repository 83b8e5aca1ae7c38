"""The model card of the best model, with its results where the Hub looks for them."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from steadytune.comparison.kept_models import best_on_validation
from steadytune.comparison.records import RunRecord
from steadytune.errors import SettingsError
from steadytune.reporting.views import CellView, ReportData
from steadytune.reporting.words import label, size, table_cell
from steadytune.support.text import number, plain_text, rate
from steadytune.tasks.named.registry import task_record
from steadytune.tasks.task import Task

#: What the Hub calls our metrics, where it has another name.
HUB_NAMES = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


#: What the Hub calls a head's task.
PIPELINES = {
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "causal_lm": "text-generation",
}


def best_run(data: ReportData, task: str) -> tuple[CellView, RunRecord] | None:
    """The run of a task with the best validation score of all sizes, methods and seeds.

    On a tie it is plain training's, which needs no proof, and then the one of smaller loss.
    It is the one whose model a comparison keeps. Its score is no proof of its method: that is the verdict's.
    """
    views = [view for view in data.cells if view.cell.task == task]
    best = best_on_validation((view.cell, run) for view in views for run in view.cell.runs)
    return None if best is None else (next(view for view in views if view.cell is best[0]), best[1])


def model_cards(data: ReportData) -> dict[str, str]:
    """The card for the best model of each task that gave a score, by task."""
    tasks = dict.fromkeys(view.cell.task for view in data.cells)
    best = {task: found for task in tasks if (found := best_run(data, task)) is not None}
    return {task: _card(data, view, run) for task, (view, run) in best.items()}


def _card(data: ReportData, view: CellView, run: RunRecord) -> str:
    model = plain_text(data.comparison.settings.get("model", "model"))
    name = f"{Path(model).name} with {label(run.candidate)} on {plain_text(view.cell.task)}"
    card = ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag=_pipeline(data, view),
        base_model=model if HUB_ID.fullmatch(model) and not Path(model).exists() else None,
        tags=["steadytune", *(plain_text(method) for method in run.methods)],
        metrics=[HUB_NAMES.get(view.cell.metric, plain_text(view.cell.metric))],
        eval_results=_results(data, view, run) or None,
    )
    return f"---\n{card.to_yaml()}\n---\n\n{_text(data, view, run, name)}"


def _known(view: CellView) -> Task | None:
    try:
        return task_record(view.cell.task)
    except SettingsError:  # the user's own files
        return None


def _pipeline(data: ReportData, view: CellView) -> str:
    known = _known(view)
    head = known.head if known is not None else data.comparison.settings.get("head")
    return PIPELINES.get(str(head), "text-classification")


def _results(data: ReportData, view: CellView, run: RunRecord) -> list[EvalResult]:
    metric = view.cell.metric
    known = _known(view)
    return [
        EvalResult(
            task_type=_pipeline(data, view),
            dataset_type=(known.hub_id if known is not None else None) or plain_text(view.cell.task),
            dataset_config=known.hub_config if known is not None else None,
            dataset_name=plain_text(view.cell.task),
            dataset_split=plain_text(split),
            metric_type=HUB_NAMES.get(metric, plain_text(metric)),
            metric_name=plain_text(metric),
            metric_value=score,
        )
        for split in view.cell.test_splits
        if (score := run.score(split, metric)) is not None
    ]


def _text(data: ReportData, view: CellView, run: RunRecord, name: str) -> str:
    metric = table_cell(view.cell.metric)
    lines = [
        f"# {table_cell(name)}",
        "",
        f"Fine-tuned from {table_cell(data.comparison.settings.get('model', 'a model'))} on "
        f"{table_cell(view.cell.task)} ({table_cell(size(view.cell.train_size))}), "
        f"{table_cell(label(run.candidate))}, learning rate {rate(run.learning_rate)}, seed {run.seed}. "
        "Of all runs of the comparison, this is the one that is best on validation data.",
        "",
        f"| split | {metric}, this model | mean of the seeds | sd |",
        "|---|---|---|---|",
    ]
    for split in view.splits:
        row = next(m for m in split.methods if m.statistics.candidate == run.candidate)
        score = run.score(split.statistics.split, view.cell.metric)
        mean, sd = number(row.summary.mean), number(row.summary.sd)
        lines.append(f"| {table_cell(split.name)} | {number(score)} | {mean} | {sd} |")
    verdict = table_cell(view.verdict.sentence)
    lines += ["", f"Compared with steadytune: {verdict}", ""]
    lines += [f"In the folder of the comparison the model is `runs/{table_cell(run.key)}/model`.", ""]
    lines += ["Repeat the comparison with", ""]
    return "\n".join([*lines, f"    {plain_text(data.comparison.command)}", ""])
