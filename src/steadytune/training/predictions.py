"""What a run predicted for each row of a split, kept beside its scores: calibration needs no second pass."""

from __future__ import annotations

import io
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np

from steadytune.errors import SteadytuneError
from steadytune.heads.registry import head_of
from steadytune.support.atomic_files import replaced_when_whole
from steadytune.support.reading import open_regular
from steadytune.support.writing import make_folder, open_file
from steadytune.tasks.task import Head

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from steadytune.heads.encoded import Encoded
    from steadytune.heads.head import Scorer

FOLDER = "predictions"
#: Above, a file would be larger than many a model.
MOST_VALUES = 20_000_000
#: Largest array in such a file, in bytes, labels in 64 bits included.
MOST_BYTES = 8 * MOST_VALUES + 1024


#: What NumPy and the zip library raise for files that are cut off, overwritten or empty, and what scores raise.
_DAMAGES = (SteadytuneError, OSError, TypeError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)
_DAMAGES += (BadZipFile, zlib.error)


class Predictions(NamedTuple):
    """Predictions of one split: ``(rows, outputs)`` in float32, the true labels, and the task's head."""

    logits: np.ndarray
    labels: np.ndarray
    head: str


def keeping(scorer: Scorer, head: Head, encoded: Encoded, file: Path) -> Scorer:
    """Return a scorer that also writes what it is given, in the order of the rows; heads of other shapes keep nothing.

    Args:
        scorer: gives the scores.
        head: of the task.
        encoded: the split, in the order in which it is evaluated.
        file: ``logits`` (rows, outputs) in float32, ``labels`` and ``head``, replaced by each evaluation.
    """
    if not head_of(head).one_output_per_row:
        return scorer

    def score(predicted: EvalPrediction) -> dict[str, float]:
        logits, labels = np.asarray(predicted.predictions), np.asarray(predicted.label_ids)
        rows = np.asarray(encoded.features.with_format("numpy")["row"][:])
        if logits.size <= MOST_VALUES and len(rows) == len(logits) == len(np.unique(rows)):
            order = np.argsort(rows)
            make_folder(file.parent)
            with replaced_when_whole(file) as unfinished, open_file(unfinished, "wb") as content:
                np.savez_compressed(content, logits=logits[order].astype(np.float32), labels=labels[order], head=head)
        return scorer(predicted)

    return score


def read_predictions(run: Path, split: str) -> Predictions | None:
    """What was predicted for a split; ``None`` where nothing was kept, or the file is damaged."""
    try:
        with open_regular(run / FOLDER / f"{split}.npz") as file, ZipFile(file) as content:
            logits, labels, head = (_array(content, name) for name in ("logits", "labels", "head"))
            found = Predictions(logits, labels, str(head))
            head_of(found.head).row_scores(found.logits, found.labels)  # raises where they do not fit each other
            return found
    except (
        SteadytuneError,
        TypeError,
        OSError,
        ValueError,
        KeyError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        BadZipFile,
        zlib.error,
    ):
        return None


def _array(archive: ZipFile, name: str) -> np.ndarray:
    """One array, whose shape is that of the bytes that are there; neither its header nor the archive is believed."""
    with archive.open(f"{name}.npy") as member:
        content = member.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError("larger than what is kept")
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(file)
    if kind.hasobject or math.prod(shape) * kind.itemsize != len(content) - file.tell():
        raise ValueError("not as large as its header says")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)
