"""Libraries that say less."""

from __future__ import annotations

import logging
import warnings

from steadytune.support.secrets import redact_logs


def quiet_libraries() -> None:
    """Let our own lines be heard: warnings of the libraries go to the logs at level ERROR only."""
    import datasets

    quiet_transformers()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def quiet_transformers() -> None:
    """The same where no data set is read: importing `datasets` would take 90 MB."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="torch|transformers|accelerate|datasets")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    redact_logs()
