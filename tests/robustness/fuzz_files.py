"""Files that are generated, not spoiled: tables, lists, tags and questions, each written in one of many forms."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Sequence
from random import Random
from typing import Any

from fuzz_bytes import spoiled
from fuzz_coverage import Case
from fuzz_targets import DataFiles, data_seeds

WORDS = (
    "film",
    "gut",
    "très",
    "schön",
    "naïve",
    "New York",
    "#",
    "a,b",
    "x;y",
    '"',
    "NA",
    "[x]",
    "0",
    "ok|so",
    "señor",
)
CLASSES = (("pos", "neg"), ("0", "1"), ("1", "2", "3"), ("007", "7", "10"), ("good", "Good ", "bad"), ("yes", "N/A"))
CLASSES += (
    ("1,5", "2,25", "3"),
    ("0.5", "1", "2.25"),
    ("-1", "1"),
    ("12345678901234567890", "5"),
    ("café", "cafe\u0301"),
)
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1")
HEADERS = (("text", "label"), ("Review", "Sentiment"), ("label", "text"), (" Tweet ", "category"), ("one", "two"))
TAGS = (
    ("O", "B-PER", "I-PER"),
    ("O", "B-X", "S-X", "E-X"),
    ("NOUN", "VERB"),
    ("0", "1"),
    ("O", "B_X"),
    ("O", "B-X", "0"),
)
LINE_ENDS = ("\n", "\n", "\r\n")


class GeneratedFiles(DataFiles):
    """Every case is a new file; some are spoiled afterwards."""

    name = "generated files"

    def seeds(self) -> Sequence[Case]:
        return data_seeds()[:2]

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        made = chance.choice((_table, _table, _objects, _sets, _tags, _tags, _questions, _pairs))(chance)
        if chance.random() < 0.3:
            made = Case(made.name, spoiled(made.content, other.content, chance), made.arguments)
        return made


def _text(chance: Random, most: int = 6) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))


def _encoded(text: str, chance: Random, name: str, arguments: tuple[str, ...] = ()) -> Case:
    encoding = chance.choice(ENCODINGS)
    content = text.encode(encoding, "replace")
    if chance.random() < 0.15:
        arguments = (*arguments, "--encoding", encoding)
    if chance.random() < 0.2:
        return Case(f"{name}.gz", gzip.compress(content), arguments)
    return Case(name, content, arguments)


def _delimited(
    rows: list[tuple[Any, ...]], header: tuple[str, ...], chance: Random, arguments: tuple[str, ...]
) -> Case:
    text, delimiter = io.StringIO(newline=""), chance.choice((",", ",", ";", "\t", "|"))
    quoting = chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=chance.choice(LINE_ENDS))
    writer.writerows([header, *rows])
    if chance.random() < 0.1:
        arguments = (*arguments, "--delimiter", delimiter)
    first = f"sep={delimiter}\n" if chance.random() < 0.05 else ""
    return _encoded(first + text.getvalue(), chance, chance.choice(("a.csv", "a.csv", "a.tsv")), arguments)


def _rows(chance: Random) -> list[tuple[str, str]]:
    names = chance.choice(CLASSES)
    return [(f"{_text(chance)} {i}", chance.choice(names)) for i in range(chance.randint(4, 30))]


def _table(chance: Random) -> Case:
    header = chance.choice(HEADERS)
    rows: list[tuple[Any, ...]] = [row[::-1] if header[0] == "label" else row for row in _rows(chance)]
    if chance.random() < 0.3:
        header, rows = (*header, "id"), [(*row, i) for i, row in enumerate(rows)]
    return _delimited(rows, header, chance, ())


def _pairs(chance: Random) -> Case:
    header = (*chance.choice((("premise", "hypothesis"), ("Sentence1", "sentence2"), ("text", "text_pair"))), "gold")
    return _delimited([(text, _text(chance), label) for text, label in _rows(chance)], header, chance, ())


def _as_json(rows: list[dict[str, Any]], chance: Random) -> tuple[str, str]:
    ascii_only = chance.random() < 0.5
    if chance.random() < 0.5:
        return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows), "a.jsonl"
    return json.dumps(rows, ensure_ascii=ascii_only, indent=chance.choice((None, 1))), "a.json"


def _objects(chance: Random) -> Case:
    header = chance.choice(HEADERS)
    text, label = (1, 0) if header[0] == "label" else (0, 1)
    rows = [{header[text]: row[0], header[label]: row[1], "meta": {"i": [i]}} for i, row in enumerate(_rows(chance))]
    if header == ("one", "two"):
        for row in rows:
            del row["meta"]
    return _encoded(*_first_two(_as_json(rows, chance), chance))


def _first_two(made: tuple[str, str], chance: Random) -> tuple[str, Random, str]:
    return made[0], chance, made[1]


def _sets(chance: Random) -> Case:
    names, count = (
        chance.choice((("a", "b", "c"), ("10", "9"), ("0", "1"), ("it's", 'x"y', "z"))),
        chance.randint(3, 20),
    )
    sets = [sorted(chance.sample(names, chance.randint(0, len(names)))) for _ in range(count)]
    vectors = [[chance.randint(0, 1) for _ in names] for _ in range(count)]
    head = ("--head", "multi_label")
    kind = chance.choice(("delimited", "json", "python", "numpy", "vector", "lists"))
    if kind == "lists":
        rows = [{"text": f"{_text(chance)} {i}", "label": chance.choice((sets, vectors))[i]} for i in range(count)]
        return _encoded(*_first_two(_as_json(rows, chance), chance), head)
    cells = {
        "delimited": lambda i: chance.choice("|;,").join(sets[i]),
        "json": lambda i: json.dumps(sets[i]),
        "python": lambda i: str(sets[i]),
        "numpy": lambda i: "[" + " ".join(map(str, vectors[i])) + "]",
        "vector": lambda i: str(vectors[i]),
    }[kind]
    return _delimited([(f"{_text(chance)} {i}", cells(i)) for i in range(count)], ("text", "label"), chance, head)


def _tags(chance: Random) -> Case:
    tags, tab, end = chance.choice(TAGS), chance.choice((" ", "\t", "  ")), chance.choice(LINE_ENDS)
    lines: list[str] = []
    for number in range(chance.randint(2, 12)):
        if chance.random() < 0.15:
            lines += chance.choice(
                (["# text = so"], [f"# sent_id = {number}"], ["-DOCSTART- -X- O", ""], ["# newdoc"])
            )
        for _ in range(chance.randint(1, 6)):
            word = chance.choice(WORDS).replace(" ", "" if tab != "\t" else " ")
            middle = f"x{tab}" if len(tags) == 2 else ""
            lines.append(f"{word}{tab}{middle}{chance.choice(tags)}")
        lines += [""] * chance.randint(1, 2)
    if chance.random() < 0.2:
        words = [[chance.choice(WORDS) for _ in range(3)] for _ in range(6)]
        rows = [{"tokens": row, "ner_tags": chance.choices(tags, k=3)} for row in words]
        if chance.random() < 0.5:
            return _encoded(*_first_two(_as_json(rows, chance), chance))
        cells = [(json.dumps(row["tokens"]), str(row["ner_tags"])) for row in rows]
        return _delimited(cells, ("tokens", "ner_tags"), chance, ())
    return _encoded(end.join(lines) + end, chance, chance.choice(("a.conll", "a.txt")))


def _questions(chance: Random) -> Case:
    flat: list[dict[str, Any]] = []
    for number in range(chance.randint(2, 12)):
        context = _text(chance, 12)
        start = chance.randrange(len(context))
        found = context[start : start + chance.randint(1, 6)]
        known = chance.random() < 0.7 and found.strip()
        answers = {
            "text": [found] if known else [],
            "answer_start": [start + (chance.random() < 0.02)] if known else [],
        }
        flat.append({"id": str(number), "question": f"{_text(chance)}?", "context": context, "answers": answers})
    if chance.random() < 0.5:
        return _encoded(*_first_two(_as_json(flat, chance), chance))
    nested = [
        {
            "context": row["context"],
            "qas": [
                {
                    "id": row["id"],
                    "question": row["question"],
                    "answers": [
                        {"text": text, "answer_start": place}
                        for text, place in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
                    ],
                }
            ],
        }
        for row in flat
    ]
    content = {"version": "2.0", "data": [{"title": "t", "paragraphs": nested}]}
    return _encoded(json.dumps(content, ensure_ascii=chance.random() < 0.5), chance, "a.json")
