"""The Trainer of several tasks: its interleaved batches, and one evaluation per task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import DataLoader

from steadytune.training.callbacks import ReportCallback
from steadytune.training.multi_task.batches import OneTask, TaskBatches, TaskRows
from steadytune.training.trainer import RunTrainer

#: Model outputs that are not scored.
_NOT_SCORED = ["loss", "prediction", "past_key_values"]


class MultiTaskTrainer(RunTrainer):
    """Trains on batches of one task each, and evaluates every task by its own scores.

    Args:
        selectors: by task, what makes a batch's outputs small before they are collected.
        tell: called after each epoch with its number and the scores on validation rows by task.
    """

    def __init__(
        self,
        *args: Any,
        selectors: Mapping[str, Callable[[Any, Any], Any]],
        tell: Callable[[float, Mapping[str, Mapping[str, float]]], None],
        **kwargs: Any,
    ) -> None:
        self.selectors, self.tell = selectors, tell
        super().__init__(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The batches of all tasks, interleaved."""
        rows: Any = self.train_dataset
        assert isinstance(rows, TaskRows)
        size = self.args.train_batch_size
        together = size * self.args.gradient_accumulation_steps * self.args.world_size if self.group_by_length else 0
        loader = DataLoader(
            rows,
            batch_sampler=TaskBatches.of(rows, size, together, self.args.seed),
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate one split of one task, or by default the validation rows of all tasks."""
        if isinstance(eval_dataset, OneTask):
            self.preprocess_logits_for_metrics = self.selectors[eval_dataset.task]
            return super().evaluate(eval_dataset, [*(ignore_keys or []), *_NOT_SCORED], metric_key_prefix)
        rows: Any = self.eval_dataset
        found: dict[str, dict[str, float]] = {}
        for task, split in rows.items():
            scores = self.evaluate(split, ignore_keys, f"eval_{task}")
            found[task] = scores
        prefixes = {task: f"eval_{task}_" for task in found}
        self.tell(
            self.state.epoch or 0.0,
            {task: {k.removeprefix(prefixes[task]): v for k, v in s.items()} for task, s in found.items()},
        )
        return {name: value for scores in found.values() for name, value in scores.items()}


class QuietEvaluation(ReportCallback):
    """Reports training only; evaluations are reported elsewhere, all tasks of an epoch in one line."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Tell nothing."""
