"""Callbacks that report a run's progress from inside the Trainer."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import TrainerCallback

from steadytune.support.signals import handled
from steadytune.training.folder import RunFolder
from steadytune.training.meter import Meter
from steadytune.training.reporter import Reporter


class ReportCallback(TrainerCallback):
    """Carries progress to the reporter, logs to the run's folder, and measures (one method per event of the Trainer).

    Args:
        reporter: shows the progress.
        folder: keeps the log.
        meter: measures the updates.
    """

    def __init__(self, reporter: Reporter, folder: RunFolder, meter: Meter) -> None:
        self.reporter = reporter
        self.folder = folder
        self.meter = meter
        self.seconds = 0.0
        self._began = 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.folder.restore_log(state.log_history)
        self.meter.earlier_seconds = self.folder.logged_seconds()
        self.reporter.start(state.max_steps, state.global_step)
        self._began = time.monotonic()

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self.meter.begin()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.meter.end()
        self.reporter.step(state.global_step, None)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        self.folder.append_log({"step": state.global_step, **logs, "training_seconds": round(self.meter.seconds, 3)})
        if "loss" in logs:
            self.reporter.step(state.global_step, float(logs["loss"]))

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        self.reporter.epoch(state.epoch or 0.0, metrics or {})

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.seconds += time.monotonic() - self._began
        self.reporter.stop()


class InterruptCallback(TrainerCallback):
    """Ends training at the next update, with a checkpoint, once `interrupt` was called."""

    def __init__(self) -> None:
        self.interrupted = False

    def interrupt(self) -> None:
        """Ask for the end."""
        self.interrupted = True

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if self.interrupted and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        if control.should_training_stop and state.epoch is not None and not state.epoch.is_integer():
            # The Trainer takes the stop for the end of an epoch, and would evaluate and save once more.
            control.should_evaluate = control.should_save = control.should_log = False


class SparingCheckpoints(TrainerCallback):
    """Leaves out checkpoints at the end of an epoch that would follow too soon on the one before, or on the beginning.

    Args:
        seconds: least time between two; 0 leaves none out.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = 0.0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self._last = time.monotonic()

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        if time.monotonic() - self._last < self.seconds:
            control.should_save = False

    def on_save(self, args, state, control, **kwargs) -> None:
        self._last = time.monotonic()


@contextmanager
def ending_gently(callback: InterruptCallback, reporter: Reporter) -> Iterator[None]:
    """While training runs, let a first Ctrl-C, SIGTERM or SIGHUP save a checkpoint and stop; a second stops now."""

    def handle(number: int) -> None:
        if callback.interrupted:
            raise KeyboardInterrupt
        callback.interrupt()
        reporter.note(f"{signal.Signals(number).name}: saving a checkpoint after this step. Once more stops at once.")

    with handled(handle):
        yield
