"""Files are read in blocks: in less memory than three times their size, and with the rows of the whole."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from pathlib import Path

import pytest

from steadytune.errors import DataError
from steadytune.tasks.files import multi_label as multi_label_files
from steadytune.tasks.files.formats import delimited, sentences
from steadytune.tasks.files.load import load_files

ROWS = 100_000
LABELS = ("politics", "money", "sport", "music", "health")
WORDS = [f"word{i}" for i in range(3000)]
#: The libraries are loaded, and their pools filled, by a file of 200 rows.
SCRIPT = """
import sys
from pathlib import Path
from steadytune.tasks.files.load import load_files

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage has the peak of the parent in it
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

small, large, head = sys.argv[1:]
load_files(small, head=head)
before = peak()
data = load_files(large, head=head)
print(peak() - before, sum(map(len, data.splits.values())))
"""


def write(path: Path, kind: str, rows: int) -> Path:
    chance = random.Random(0)

    def text(count: int) -> str:
        return " ".join(chance.choices(WORDS, k=count))

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("prompt", "answer") if kind == "causal_lm" else ("text", "label"))
        for i in range(rows):
            # every third text is quoted; the quoting is checked before Arrow reads the file
            first = text(30) + (', he said "no"' if i % 3 == 0 else "")
            second = {"causal_lm": text(3), "classification": LABELS[i % 5]}
            labels = "|".join(chance.sample(LABELS, i % 4))
            writer.writerow((first, second.get(kind, labels)))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc, which Linux has")
@pytest.mark.parametrize(
    "kind",
    [
        "classification",
        pytest.param("multi_label", marks=pytest.mark.long),
        pytest.param("causal_lm", marks=pytest.mark.long),
    ],
)
def test_a_file_takes_less_than_three_times_its_size(tmp_path, kind):
    small, large = write(tmp_path / "small.csv", kind, 200), write(tmp_path / "large.csv", kind, ROWS)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(small), str(large), kind], capture_output=True, text=True, check=True
    )
    taken, read = map(int, done.stdout.split())
    assert read == ROWS
    assert taken < 3 * large.stat().st_size, f"{taken / large.stat().st_size:.2f} times the size of the file"


CONTENT = 'text,label\n"a, b",x|y\n"he said ""no""",\nplain,y\n"two\nlines",x\n""" at both ends""",z|x\n'
FAULTS = {
    "the label": (CONTENT.replace("z|x", "z|x|z"), "data row 5 .*'z' occurs twice"),
    "the name": (CONTENT.replace(",y\n", ",y|\n"), "data row 3 .*one of the labels is empty"),
    "the quote": (CONTENT.replace('"two\n', 'two "\n'), "never closed|closed in the middle|fields where"),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1 << 20])
def test_blocks_change_neither_rows_nor_messages(tmp_path, monkeypatch, size):
    file = tmp_path / "rows.csv"
    file.write_text(CONTENT, encoding="utf-8")
    validation = {"validation_file": file, "head": "multi_label"}
    whole = load_files(file, **validation).splits["train"][:]
    monkeypatch.setattr(delimited, "_ROWS", size)
    monkeypatch.setattr(multi_label_files, "_ROWS_AT_ONCE", size)
    found = load_files(file, **validation)
    assert found.splits["train"][:] == whole
    assert whole["text"] == ["a, b", 'he said "no"', "plain", "two\nlines", '" at both ends"']
    assert whole["label"] == [[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 1]]
    for content, message in FAULTS.values():
        file.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            load_files(file, **validation)


@pytest.mark.parametrize("size", [16, 40, 1 << 20])
def test_sentences_may_go_over_the_end_of_a_block(tmp_path, monkeypatch, size):
    file = tmp_path / "tags.conll"
    lines = "\n\nAda B-PER\nLovelace I-PER\nwrote O\n\n-DOCSTART- O\n\nIn O\nParis B-LOC\n\n\nYes O\n"
    file.write_text(lines, encoding="utf-8")
    monkeypatch.setattr(sentences, "_WORDS", size)
    rows = load_files(file, validation_file=file).splits["train"][:]
    assert rows["tokens"] == [["Ada", "Lovelace", "wrote"], ["In", "Paris"], ["Yes"]]
    assert rows["label"] == [[3, 4, 0], [0, 1], [0]]
    file.write_text(lines + "broken\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 14: 'broken' is not a word"):
        load_files(file, validation_file=file)
