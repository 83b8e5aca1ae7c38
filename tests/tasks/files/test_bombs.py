"""Files that unpack to more than there is: the memory is bounded, whatever a file says of its own size."""

from __future__ import annotations

import gzip
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from steadytune.errors import DataError
from steadytune.support.memory import within_free_memory
from steadytune.tasks import load_files, load_task

ROWS, LETTERS = 400, 1_000_000


def varint(number: int) -> bytes:
    """As in a parquet footer, where each whole number is in zigzag and in groups of seven bits."""
    number, found = number << 1, bytearray()
    while number >= 128:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def bomb(file: Path, columns: tuple[str, ...], *, lies: bool) -> None:
    """400 MB in less than 100 kB; where it lies, its footer says that they are less than 1 kB."""
    text = [" " * LETTERS] * ROWS
    table = pa.table({name: text if name != columns[-1] else [i % 2 for i in range(ROWS)] for name in columns})
    parquet.write_table(table, file, compression="zstd", use_dictionary=False, write_statistics=False)
    assert file.stat().st_size < 200_000
    group = parquet.ParquetFile(file).metadata.row_group(0)
    content = file.read_bytes()
    for size in {group.column(i).total_uncompressed_size for i in range(group.num_columns)} | {group.total_byte_size}:
        said = varint(size)
        small = bytes([0x82] + [0x80] * (len(said) - 2) + [0x00]) if len(said) > 2 else said
        if lies:
            content = content.replace(said, small)
    file.write_bytes(content)


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=150 * 2**20))
    pool = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())  # the usual one has reserved a gigabyte that it does not use
    yield before[0]
    pa.set_memory_pool(pool)


@pytest.mark.parametrize("lies", [False, True])
def test_a_parquet_file_is_bounded_whatever_its_footer_says(tmp_path: Path, little_memory: int, lies: bool) -> None:
    bomb(tmp_path / "bomb.parquet", ("text", "label"), lies=lies)
    with pytest.raises(DataError, match=r"unpack"):
        load_files(tmp_path / "bomb.parquet")
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == little_memory


@pytest.mark.parametrize("lies", [False, True])
def test_so_is_that_of_a_named_task(tmp_path: Path, little_memory: int, lies: bool) -> None:
    (tmp_path / "glue" / "cola").mkdir(parents=True)
    from steadytune.tasks.named.registry import task_record

    task = task_record("cola")
    for source in task.sources:
        file = tmp_path / f"{source.file}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        bomb(file, (task.text_column, "idx", task.label_column), lies=lies)
    with pytest.raises(DataError, match=r"unpacks"):
        load_task("cola", tmp_path)
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == little_memory


def test_so_is_a_compressed_text(tmp_path: Path, little_memory: int) -> None:
    with gzip.open(tmp_path / "bomb.csv.gz", "wb") as file:
        file.write(b"text,label\n")
        for _ in range(ROWS):
            file.write(b"a" * LETTERS + b",x\n")
    with pytest.raises(DataError, match=r"unpacks"):
        load_files(tmp_path / "bomb.csv.gz")
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == little_memory


def test_what_fits_is_read(tmp_path: Path, little_memory: Any) -> None:
    with within_free_memory("x"):
        assert len(bytearray(10 * 2**20)) == 10 * 2**20
    with pytest.raises(DataError, match="x: unpacks"), within_free_memory("x"):
        bytearray(400 * 2**20)
