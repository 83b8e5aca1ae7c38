"""Find the rows of a named task: in a data folder, in the cache of the library `datasets`, and only then on the Hub.

All three give a `Dataset` as published, which `published_rows` turns into the same columns.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from steadytune.errors import DataError
from steadytune.heads.columns import IDENTIFIER, LABEL
from steadytune.heads.registry import head_of
from steadytune.support.hub import CONNECTION_SECONDS, hub_address, hub_is_reachable, within
from steadytune.support.memory import within_free_memory
from steadytune.support.reading import open_regular
from steadytune.support.text import brief, excerpt
from steadytune.tasks.files.places import file_place
from steadytune.tasks.named.published_rows import Normalized, normalize
from steadytune.tasks.subset import held_out_rows
from steadytune.tasks.tables import dataset_of
from steadytune.tasks.task import RowCounts, SplitSource, Task, TaskData

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_arrow: Any = compute

HELD_OUT_SEED = 0
_MOST_NAMED = 6
_FIRST = ("train", "validation")
_CONVERTED = "refs/convert/parquet"  # where the Hub keeps the rows of data sets that are published as a script

#: What to train on where a task's rows are not available.
INSTEAD = ", or use --task movie-reviews, which needs no Hub"

Found = dict[SplitSource, "Dataset"]


def load_published(task: Task, data_dir: str | Path | None = None, splits: Collection[str] | None = None) -> TaskData:
    """Return a named task with its rows, from the first of folder, cache and Hub that has any.

    `splits` names the splits to read; all by default.
    A folder that has some of the task's splits is the only source; `notes` says what it lacks. Rows without a label
    are refused, counted and told. Where there are training rows but none to validate on, a tenth is held out.
    Raises DataError (one line, within 5 seconds when the Hub cannot be reached) when there are no rows, or a file
    does not hold what the record says.
    """
    if splits is not None:
        task = replace(task, sources=tuple(source for source in task.sources if source.split in splits))
    found, found_in, where = _find(task, data_dir)
    parts: dict[str, list[Normalized]] = {}
    for source, published in found.items():
        place = f"--task {task.name}, {source.file} in {where}"
        parts.setdefault(source.split, []).append(normalize(published, task, place))
    notes = _missing_notes(task, found, where)
    tables: dict[str, pa.Table] = {}
    counts: dict[str, RowCounts] = {}
    for split, normalized in parts.items():
        table, counts[split], refused = _joined(normalized)
        if refused:
            notes.append(f"{split}: {counts[split].used:,} of {counts[split].read:,} rows are used; {refused}.")
        if table.num_rows:
            tables[split] = table
    if not tables:
        raise DataError(f"--task {task.name}: no row in {where} can be used. {' '.join(notes)}")
    _hold_out(task, tables, counts, notes)
    outside = tuple(dict.fromkeys(s.split for s in task.sources if s.out_of_domain and s.split in tables))
    order = sorted(tables, key=lambda split: _FIRST.index(split) if split in _FIRST else len(_FIRST))
    rows = {split: dataset_of(tables[split]) for split in order}
    return TaskData(task, rows, outside, counts, tuple(notes), found_in)


def place_of(task: Task, data_dir: str | Path | None = None) -> str:
    """Say where the rows of a task would be read from now, without asking the Hub.

    "folder", "cache", "hub", or "nowhere" where the Hub has none and the folder neither; "wheel" for the demo.
    """
    if not task.sources:
        return "wheel"
    if data_dir is not None and _in_folder(task, _folder(data_dir)):
        return "folder"
    if any(_is_cached(source) for source in task.sources):
        return "cache"
    return "hub" if task.hub_id is not None else "nowhere"


def _find(task: Task, data_dir: str | Path | None) -> tuple[Found, str, str]:
    """Return the rows by source, where they were found, and that place as messages name it."""
    looked = []
    if data_dir is not None:
        folder = _folder(data_dir)
        files = _in_folder(task, folder)
        if files:
            return {source: _read(paths) for source, paths in files.items()}, "folder", file_place(folder)
        looked.append(f"no {task.sources[0].file}.parquet in {file_place(folder)}")
    on_hub = [source for source in task.sources if source.hub_id is not None]
    if not on_hub:
        raise DataError(
            f"--task {task.name}: {', '.join(looked) or 'the Hub has no such data set'}; "
            f"give a --data-dir that holds {task.sources[0].file}.parquet."
        )
    cached = _with_offline_library(on_hub)
    if len(cached) == len(on_hub):
        return cached, "cache", "the Hub's cache"
    reason = _why_not_on_hub(task)
    if reason is None:
        return _from_hub(task, on_hub), "hub", "the Hub"
    if cached:
        return cached, "cache", "the Hub's cache"
    from datasets import config

    looked.append(f"nothing in the cache {config.HF_DATASETS_CACHE}")
    raise DataError(
        f"--task {task.name}: {', '.join(looked)}, and {reason}. Give a --data-dir that holds "
        f"{task.sources[0].file}.parquet{INSTEAD}."
    )


# --- a folder --------------------------------------------------------------------------------------------------------


def _folder(data_dir: str | Path) -> Path:
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        problem = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        raise DataError(f"--data-dir {file_place(folder)}: {problem}; give the folder that holds the data sets.")
    return folder


def _in_folder(task: Task, folder: Path) -> dict[SplitSource, list[Path]]:
    """Return the files of each source that is there: one file, or the parts of one as the Hub names them."""
    found: dict[SplitSource, list[Path]] = {}
    for source in task.sources:
        whole = folder / f"{source.file}.parquet"
        paths = [whole] if whole.is_file() else sorted(whole.parent.glob(f"{whole.stem}-*-of-*.parquet"))
        if paths:
            found[source] = paths
    return found


def _read(paths: list[Path]) -> Dataset:
    from datasets import Dataset

    tables = []
    for path in paths:
        try:
            with within_free_memory(file_place(path)):
                tables.append(parquet.ParquetFile(open_regular(path)).read())
        except DataError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{file_place(path)}: the parquet file is damaged ({excerpt(error)}); fetch it again."
            ) from None
    return Dataset(pa.concat_tables(tables, promote_options="default"))  # pyright: ignore


# --- the cache and the Hub -------------------------------------------------------------------------------------------


def _is_cached(source: SplitSource) -> bool:
    """Whether the library `datasets` may have the data set in its cache; only then is it asked."""
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    if source.hub_id is None:
        return False
    owner, _, name = source.hub_id.rpartition("/")
    folder = Path(config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    return (folder / (source.hub_config or "default")).is_dir()


def _with_offline_library(sources: list[SplitSource]) -> Found:
    """Return what the cache holds of the sources."""
    found: Found = {}
    with _offline():
        for source, rows in _grouped([source for source in sources if _is_cached(source)], task=None):
            found[source] = rows
    return found


def _from_hub(task: Task, sources: list[SplitSource]) -> Found:
    return dict(_grouped(sources, task))


def _grouped(sources: list[SplitSource], task: Task | None) -> Iterator[tuple[SplitSource, Dataset]]:
    """Yield the rows of each source, each data set loaded once; without a task what cannot be loaded is left out."""
    for hub_id, config in dict.fromkeys((source.hub_id, source.hub_config) for source in sources):
        try:
            splits = _load(str(hub_id), config)
        except Exception as error:  # the library and its HTTP client raise many types; each becomes one line
            if task is None:
                continue
            raise DataError(
                f"--task {task.name}: {hub_id} ({config or 'default'}) cannot be loaded from the Hub "
                f"({type(error).__name__}: {brief(error)})."
            ) from error
        for source in sources:
            if (source.hub_id, source.hub_config) == (hub_id, config) and source.hub_split in splits:
                yield source, _of_language(splits[source.hub_split], source.identifier_prefix)


def _load(hub_id: str, config: str | None) -> DatasetDict:
    import datasets

    try:
        loaded: Any = datasets.load_dataset(hub_id, config)
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        loaded = datasets.load_dataset(hub_id, config, revision=_CONVERTED)
    return loaded


def _of_language(rows: Dataset, prefix: str | None) -> Dataset:
    """Return the rows of one language, where a split of the Hub holds all."""
    if prefix is None:
        return rows
    table: Any = rows.select_columns([IDENTIFIER]).with_format("arrow")[:]
    return rows.select(np.flatnonzero(np.asarray(_arrow.starts_with(table.column(IDENTIFIER), prefix))))


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the library from asking the Hub, which takes minutes where packets are swallowed."""
    from datasets import config
    from datasets.utils import logging
    from huggingface_hub import constants

    before = (constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE, logging.get_verbosity())
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()  # it warns that it uses its cache, as it was asked to
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before[:2]
        logging.set_verbosity(before[2])


def _why_not_on_hub(task: Task) -> str | None:
    """Say why the Hub cannot be asked, after one attempt of 2 seconds at most, or return None when it can."""
    from huggingface_hub import HfApi, constants

    address = hub_address()
    if constants.is_offline_mode():
        return "the Hub is off (HF_HUB_OFFLINE)"
    if not hub_is_reachable():
        _go_offline()
        return f"{address} cannot be reached"
    try:
        within(CONNECTION_SECONDS, lambda: HfApi().dataset_info(task.hub_id or ""))
    except queue.Empty:
        _go_offline()
        return f"{address} did not answer in {CONNECTION_SECONDS:g} s"
    except Exception as error:  # whatever the client and its HTTP library raise
        return f"{address} gave an error for {task.hub_id} ({brief(error, 200)})"
    return None


def _go_offline() -> None:
    """Let everything after this answer at once instead of timing out."""
    from datasets import config
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True


# --- what was found --------------------------------------------------------------------------------------------------


def _missing_notes(task: Task, found: Found, where: str) -> list[str]:
    """Say which splits the place lacks."""
    missing = list(dict.fromkeys(source.split for source in task.sources if source not in found))
    if not missing:
        return []
    rest = len(missing) - _MOST_NAMED
    named = ", ".join(missing[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return [f"{where} has no rows for {named}."]


def _joined(parts: list[Normalized]) -> tuple[pa.Table, RowCounts, str]:
    """Return the rows of a split, how many there are, and in words why others were refused."""
    table = pa.concat_tables([part.table for part in parts], promote_options="default")
    refused: Counter[str] = sum((part.refused for part in parts), Counter())
    counts = RowCounts(sum(part.read for part in parts), table.num_rows)
    return table, counts, " and ".join(f"{number:,} {why} refused" for why, number in (+refused).items())


def _hold_out(task: Task, tables: dict[str, pa.Table], counts: dict[str, RowCounts], notes: list[str]) -> None:
    """Take validation rows from the training rows where there are none."""
    if "validation" in tables or "train" not in tables:
        return
    train = tables["train"]
    classes = train.column(LABEL).to_numpy() if head_of(task.head).one_class_per_row else None
    rows = held_out_rows(classes, train.num_rows, HELD_OUT_SEED)
    tables["validation"] = train.take(rows)
    tables["train"] = train.take(np.delete(np.arange(train.num_rows), rows))
    read = counts["train"].read
    if "validation" in counts:  # its rows were all refused, and stay counted
        counts["official validation"] = counts["validation"]
    counts["validation"] = RowCounts(read, len(rows))
    counts["train"] = RowCounts(read, tables["train"].num_rows)
    notes.append(
        f"No validation rows: {len(rows):,} of the {train.num_rows:,} training rows are held out "
        f"(seed {HELD_OUT_SEED})."
    )
