"""Training that finishes, stops, or resumes from its last checkpoint: shared by all kinds of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerState, set_seed

from steadytune.errors import DivergedError
from steadytune.integrations.transformers.trainer import SteadyTrainer
from steadytune.training.allocator import freed_memory_is_kept
from steadytune.training.callbacks import InterruptCallback, ReportCallback, ending_gently
from steadytune.training.folder import RunFolder, is_evaluation
from steadytune.training.meter import Meter
from steadytune.training.reporter import Reporter


@dataclass
class Resumable:
    """A training in a run's folder.

    Attributes:
        trainer: trains; its model and methods are as at the beginning of a run.
        folder: holds the checkpoints and the log.
        reporter: receives the progress.
        report: carries progress out of the trainer while it trains.
        meter: measures the updates.
        interrupt: ends the training early.
        seed: training draws from it, whatever was evaluated before.
    """

    trainer: SteadyTrainer
    folder: RunFolder
    reporter: Reporter
    report: ReportCallback
    meter: Meter
    interrupt: InterruptCallback
    seed: int

    def run(self) -> TrainerState:
        """Train to the end, or to where the user stops it, from where the folder stands.

        Raises:
            DivergedError: a weight is not finite at the end.
        """
        checkpoint = self.folder.last_checkpoint(self.reporter.note)
        if checkpoint is not None:
            self.reporter.note(f"Continuing from {checkpoint}.")
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= state.max_steps:
                # Training had ended, only the results were missing; the Trainer would take one update more.
                self.folder.restore_log(state.log_history)
                self._take_weights(str(checkpoint), state)
                self.meter.earlier_seconds = self.folder.logged_seconds()
                return state
            # The Trainer resumes at the next update, though it stopped before the evaluation that follows this one.
            self.trainer.args.eval_on_start = self._lacks_evaluation(state)
        self.trainer.add_callback(self.report)
        set_seed(self.seed)
        try:
            on_cpu = self.trainer.args.device.type == "cpu"
            with ending_gently(self.interrupt, self.reporter), freed_memory_is_kept(on=on_cpu):
                self.trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        finally:
            self.reporter.stop()
            self.trainer.remove_callback(self.report)
            self.trainer.args.eval_on_start = False
            self.folder.sync_log()
        if self.trainer.state.global_step >= self.trainer.state.max_steps:
            self._refuse_diverged()
        return self.trainer.state

    def summary(self, state: TrainerState) -> dict[str, Any]:
        """What the training cost, by name."""
        return {
            "updates": state.global_step,
            "epochs": state.epoch,
            "seconds_in_last_session": round(self.report.seconds, 3),
            **self.meter.summary(state.global_step),
        }

    @property
    def model(self) -> nn.Module:
        """The model that trains."""
        assert isinstance(self.trainer.model, nn.Module)
        return self.trainer.model

    def _lacks_evaluation(self, state: TrainerState) -> bool:
        """Whether a checkpoint was written before the evaluation that falls on its update."""
        if self.trainer.args.eval_strategy != "epoch" or state.epoch is None or not state.epoch.is_integer():
            return False
        return not any(is_evaluation(entry) for entry in state.log_history if entry["step"] == state.global_step)

    def _take_weights(self, checkpoint: str, state: TrainerState) -> None:
        self.trainer._load_from_checkpoint(checkpoint)
        self.trainer.stack.prepare(self.model, resume_from=checkpoint)
        if self._lacks_evaluation(state):
            self.trainer.state = state
            self.trainer.add_callback(self.report)
            self.trainer._evaluate(None, None, skip_scheduler=True)
            self.trainer.remove_callback(self.report)
            self.folder.sync_log()
        self.trainer.stack.finish()

    def _refuse_diverged(self) -> None:
        for name, weight in self.model.named_parameters():
            if not bool(weight.isfinite().all()):
                raise DivergedError(
                    f"training diverged: after update {self.trainer.state.global_step} the weight {name} is not "
                    "finite. A smaller --learning-rate may help."
                )
