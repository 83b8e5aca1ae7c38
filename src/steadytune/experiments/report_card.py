"""The model card of the best model, with its results where the Hub looks for them."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from steadytune.experiments.records import BASELINE, RunRecord
from steadytune.experiments.report_data import CellView, ReportData
from steadytune.experiments.report_text import label, number, plain_text, rate, size, table_cell

#: What the Hub calls our metrics, where it has another name.
HUB_NAMES = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def best_run(view: CellView) -> RunRecord | None:
    """The finished run with the best validation score, of the candidate that the verdict is for."""
    kind, candidate = view.verdict.kind, view.verdict.candidate
    chosen = candidate if kind in ("use", "promising") else BASELINE
    scored = [(run.score("validation", view.cell.metric), run) for run in view.cell.of(chosen)]
    known = [(score, run) for score, run in scored if score is not None]
    if not known:
        return next((run for _, run in scored if run.status == "finished"), None)
    sign = 1 if view.cell.greater_is_better else -1
    return max(known, key=lambda pair: sign * pair[0])[1]


def model_card(data: ReportData, place: int = 0) -> str:
    """The card for the best model of a cell; empty if no run gave a score.

    Args:
        data: the report.
        place: which cell.
    """
    view = data.cells[place] if place < len(data.cells) else None
    run = best_run(view) if view is not None else None
    if view is None or run is None:
        return ""
    model = plain_text(data.comparison.settings.get("model", "model"))
    name = f"{Path(model).name} with {label(run.candidate)} on {plain_text(view.cell.task)}"
    card = ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=model if HUB_ID.fullmatch(model) and not Path(model).exists() else None,
        tags=["steadytune", *(plain_text(method) for method in run.methods)],
        metrics=[HUB_NAMES.get(view.cell.metric, plain_text(view.cell.metric))],
        eval_results=_results(view, run) or None,
    )
    return f"---\n{card.to_yaml()}\n---\n\n{_text(data, view, run, name)}"


def _results(view: CellView, run: RunRecord) -> list[EvalResult]:
    metric = view.cell.metric
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=plain_text(view.cell.task),
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
        "Of several seeds, this is the one that is best on validation data.",
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
    lines += ["", f"Compared with steadytune: {verdict}", "", "Repeat the comparison with", ""]
    return "\n".join([*lines, f"    {plain_text(data.comparison.command)}", ""])
