"""From settings to the arguments of the Trainer, with the refusals of what it would ignore or fail with."""

from __future__ import annotations

from dataclasses import fields

import torch
from transformers import TrainingArguments

from steadytune.errors import SettingsError
from steadytune.heads.registry import head_of
from steadytune.settings.fields import with_fact
from steadytune.settings.groups import RunSettings, SmoothingSettings
from steadytune.support.text import brief
from steadytune.tasks.task import Head
from steadytune.training.folder import RunFolder


def training_arguments(settings: RunSettings, folder: RunFolder, *, each_epoch: bool = True) -> TrainingArguments:
    """The arguments of the Trainer for these settings; ``each_epoch`` evaluates after each.

    Raises:
        SettingsError: this machine or this combination cannot do what is asked.
    """
    if settings.max_steps == 0:
        raise SettingsError("--max-steps: must be -1 (use the epochs) or at least 1; got 0.")
    if settings.fp16 and (settings.use_cpu or not torch.cuda.is_available()):
        raise SettingsError(
            "--fp16 needs a GPU, and there is none in use here: leave it out, or use --bf16 (on a CPU with --use-cpu)."
        )
    checkpointing = {}
    if settings.gradient_checkpointing:
        # Newer versions of Transformers call it so, and warn about the old name.
        names = {f.name for f in fields(TrainingArguments)}
        new_name = "activation_checkpointing" in names
        checkpointing = {"activation_checkpointing" if new_name else "gradient_checkpointing": True}
    try:
        return TrainingArguments(
            output_dir=str(folder.checkpoints),
            **checkpointing,
            **{name: getattr(settings, name) for name in with_fact(type(settings), "trainer")},
            eval_strategy="epoch" if each_epoch else "no",
            save_strategy="epoch" if settings.save_steps is None else "steps",
            save_steps=settings.save_steps or 500,
            logging_first_step=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available() and not settings.use_cpu,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(brief(error, 2000)) from error


def refuse_label_smoothing(settings: SmoothingSettings, head: Head) -> None:
    """Raise where the Trainer would leave label smoothing out in silence, or fail with it."""
    if settings.label_smoothing_factor > 0 and not head_of(head).smooths_labels:
        raise SettingsError(
            f"--label-smoothing-factor: is for classes, tags and words; this task is {head}: set it to 0."
        )
