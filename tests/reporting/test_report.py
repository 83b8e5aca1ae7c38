"""The report: what it says, that nothing in it can act, and that a browser shows it as it should."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import comparisons
from huggingface_hub import ModelCard, ModelCardData
from rich.console import Console

from steadytune.cli import main
from steadytune.cli.views.comparison import show_comparison
from steadytune.comparison.records import FILE_NAME, Comparison, comparison_from_json
from steadytune.errors import SettingsError
from steadytune.reporting.curves import size_curves, sweep_curves, training_curves
from steadytune.reporting.measured import calibration_curves, calibration_rows, robustness_curves
from steadytune.reporting.plots import spread
from steadytune.reporting.report import Report, report
from steadytune.reporting.words import table_cell
from steadytune.support.text import plain_text, shortened, signed
from steadytune.tasks.named.registry import task_record

HOSTILE = (
    "<script>window.stolen=1</script><img src=x onerror='window.stolen=1'>\"'`|$x_1$ {{7*7}} --> ]]> </title></style>"
    "\x00\x1b[31m\u202e\ud800 javascript:alert(1) =cmd|' /C calc'!A0"
)
CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver"
)


def hostile_comparison() -> Comparison:
    """Text of an attacker's in every place that takes text."""
    made = comparisons.rich_comparison()
    content: Any = json.loads(json.dumps(made.as_json()))
    candidates = {"smart": f"smart {HOSTILE}"}

    def poisoned(run: dict[str, Any]) -> dict[str, Any]:
        error = HOSTILE if run["status"] == "failed" else None
        texts = {"key": HOSTILE, "task": HOSTILE, "train_size": HOSTILE, "error": error, "methods": (HOSTILE,)}
        after = {
            HOSTILE if split == "imdb" else split: {HOSTILE if k == "accuracy" else k: v for k, v in values.items()}
            for split, values in run["metrics"]["after"].items()
        }
        return {
            **run,
            **texts,
            "candidate": candidates.get(run["candidate"], run["candidate"]),
            "metrics": {**run["metrics"], "after": after},
            "method_settings": {HOSTILE: {HOSTILE: HOSTILE}},
            "environment": {HOSTILE: HOSTILE},
        }

    for place, cell in enumerate(content["cells"]):
        cell |= {"task": HOSTILE, "train_size": f"{HOSTILE}{place}", "metric": HOSTILE}
        cell["test_splits"] = ("test", HOSTILE)
        cell["chosen_learning_rate"] = dict.fromkeys(candidates.values(), 1e-4)
        cell |= {stage: [poisoned(run) for run in cell[stage]] for stage in ("runs", "tuning")}
    vary = {f"{HOSTILE}.{HOSTILE}": [HOSTILE, 1, 2]}
    content["settings"] = {"model": HOSTILE, HOSTILE: HOSTILE, "vary": vary, "set": {HOSTILE: [HOSTILE]}}
    content |= {"task": HOSTILE, "environment": {HOSTILE: HOSTILE, "gpu": {HOSTILE: HOSTILE}}, "command": HOSTILE}
    return comparison_from_json(content)


class Tags(HTMLParser):
    """Every tag with its attributes, the ids, and the text of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page() -> str:
    return Report(comparisons.rich_comparison()).html()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = comparisons.comparison().as_json()
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    return tmp_path


def test_the_verdict_stands_on_top():
    made = Report(comparisons.comparison(comparisons.cell(seeds=8)))
    assert made.sentence.startswith("Use smart: ")
    heading = re.search(r"<h1>(.*?)</h1>", made.html())
    assert heading is not None
    assert heading[1].startswith("Use smart: +0.014 accuracy over plain training")
    assert made.markdown().startswith("# Use smart: +0.014 accuracy")


def test_few_seeds_are_called_few():
    made = Report(comparisons.comparison(comparisons.cell(seeds=2)))
    assert made.data.kind == "too few seeds"
    assert "no p &lt; 0.05 is possible" in made.html()


def test_a_method_that_does_nothing_leads_to_keep_plain():
    made = Report(comparisons.comparison(comparisons.cell({"none": (0, 0), "noisytune": (0.0, 0.004)}, seeds=8)))
    assert made.data.kind == "keep plain"
    assert "Keep plain training" in made.markdown().splitlines()[0]


def test_different_verdicts_are_not_made_into_one():
    cells = comparisons.cell(seeds=8), comparisons.cell({"none": (0, 0), "smart": (-0.01, 0.002)}, 8, train_size="100")
    made = Report(comparisons.comparison(*cells))
    assert made.data.kind == "mixed"
    assert "It depends on the data" in made.html()
    assert "keep plain in 1 of 2" in made.sentence.lower()


def test_figures_of_the_table_are_those_of_the_runs():
    cell = comparisons.cell(seeds=8)
    made = Report(comparisons.comparison(cell))
    scores = list(cell.scores("smart", "imdb").values())
    mean = sum(s for s in scores if s is not None) / 8
    shown = re.search(r"accuracy on imdb.*?smart</span></th>.*?class=\"start\">([\d.]+) ±", made.html(), re.DOTALL)
    row = next(line for line in made.markdown().split("imdb")[1].splitlines() if line.startswith("| smart "))
    assert shown is not None
    assert shown[1] == f"{mean:.3f}"
    assert f" {mean:.3f} ± " in row


def test_lost_runs_are_counted_shown_and_explained():
    made = Report(comparisons.comparison(comparisons.cell(failed=[("smart", 44), ("none", 45)])))
    for form in (made.html(), made.markdown()):
        assert "1 failed" in form
        assert "OutOfMemoryError: 12 GiB asked for" in form
    cell = comparisons.cell()
    assert "failed" not in Report(comparisons.comparison(replace(cell, tuning=()))).markdown()


def test_every_plot_is_there_where_there_is_data_for_it(page):
    made = Report(comparisons.rich_comparison()).data
    titles = re.findall(r"<figcaption><h3>(.*?)</h3>", page)
    for title in ("Gain over plain training", "Every seed, plain and with the method", "What it costs, what it gains"):
        assert titles.count(title) == 3
    for title in ("Training loss", "Validation score"):
        assert titles.count(title) == 3
    measured = (
        "Calibration on test",
        "Typing errors on test",
        "Dropped words on test",
        "Attack on the embeddings on test",
    )
    assert {"movie-reviews: score", *measured} <= set(titles)
    assert "Calibration in figures" in page
    assert [line.label for line in sweep_curves(made)[0].lines] == ["smart", "plain"]
    plain = Report(comparisons.comparison()).data
    assert (size_curves(plain), sweep_curves(plain)) == ([], [])
    assert [view.title for view in training_curves(plain.cells[0])] == ["Training loss", "Validation score"]


def test_calibration_joins_the_seeds_and_weighs_their_rows():
    cell = comparisons.cell({"none": (0.0, 0.0)}, seeds=2)
    bins = ([[0.62, 0.5, 30], [0.95, 0.9, 10]], [[0.66, 1.0, 10], [0.95, 0.7, 10], [0.75, 0.0, 9]])
    runs = [
        replace(run, metrics={**run.metrics, "calibration": {"test": {"ece": 0.1 + i / 10, "bins": bins[i]}}})
        for i, run in enumerate(cell.runs)
    ]
    view = Report(comparisons.comparison(replace(cell, runs=tuple(runs)))).data.cells[0]
    [curve] = calibration_curves(view)
    [line, even] = curve.lines
    assert line.points == (pytest.approx((0.63, 0.625)), pytest.approx((0.95, 0.8))), "nine rows are too few"
    assert even.points == ((0.625, 0.625), (1.0, 1.0))
    [(split, name, _, means)] = calibration_rows(view)
    assert (split, name, means) == ("test", "plain", [pytest.approx(0.15), None, None, None])


def test_what_evaluate_measured_in_the_folders_of_runs_is_in_the_report(tmp_path):
    made = comparisons.comparison(comparisons.cell(seeds=2))
    (tmp_path / FILE_NAME).write_text(json.dumps(made.as_json()))
    smart = next(run for run in made.cells[0].runs if run.candidate == "smart")
    other = next(run for run in made.cells[0].runs if run.candidate == "noisytune")
    whole_bin = {"lower": 0.6, "upper": 0.667, "count": 12, "confidence": 0.65, "accuracy": 0.5}
    empty_bin = {"lower": 0.0, "upper": 0.067, "count": 0, "confidence": None, "accuracy": None}
    measured = {"rows": 24, "ece": 0.2, "brier": 0.4, "nll": 0.6, "bins": [empty_bin, whole_bin, whole_bin]}
    content = {
        "format": 1,
        "calibration": {"test": {**measured, "temperature": 1.5, "scaled": {"ece": 0.1}}},
        "perturbations": {"typos": {"0.1": {"mean": 0.7}, "0.0": {"mean": 0.8}, "0.05": {"mean": None}}},
        "embedding_attack": {"0.0": {"accuracy": 0.8, "robust_accuracy": 0.8}, "0.01": {"robust_accuracy": 0.6}},
        "settings": {"perturbations": {"split": "test"}, "embedding_attack": {"split": "test"}},
    }
    for run, written in ((smart, content), (other, {**content, "format": 99})):
        (tmp_path / "runs" / run.key).mkdir(parents=True)
        (tmp_path / "runs" / run.key / "evaluation.json").write_text(json.dumps(written))
    view = report(tmp_path).data.cells[0]
    curves = {curve.title: curve for curve in robustness_curves(view)}
    typos, attack = curves["Typing errors on test"].lines, curves["Attack on the embeddings on test"].lines
    assert [(line.label, line.points) for line in typos] == [("smart", ((0.0, 0.8), (0.1, 0.7)))]
    assert [(line.label, line.points) for line in attack] == [("smart", ((0.0, 0.8), (0.01, 0.6)))]
    assert calibration_rows(view) == [("test", "smart", view.slots["smart"], [0.2, 0.1, 0.4, 0.6])]
    assert "Typing errors on test" in report(tmp_path).html()
    assert robustness_curves(Report(made).data.cells[0]) == []


def test_equal_compute_stands_in_table_and_report(page):
    made = comparisons.rich_comparison()
    view = Report(made).data.cells[0]
    found = next(m.statistics.equal_compute for m in view.main.methods if m.label == "smart")
    assert found is not None
    assert found.paired.mean == pytest.approx(
        sum(
            view.cell.scores("smart", "test")[seed] - view.cell.scores("none@3.00x", "test")[seed]
            for seed in range(42, 50)
        )
        / 8
    )
    assert "Against plain training with as much compute" in page
    lines = Report(made).markdown().splitlines()
    row = next(line for line in lines if line.startswith("| smart | plain, 3.00× updates"))
    assert f"| {signed(found.paired.mean)} |" in row
    terminal = Console(file=io.StringIO(), width=160)
    show_comparison(terminal, made)
    written: Any = terminal.file
    assert f"smart against plain, 3.00× updates: {signed(found.paired.mean)} " in written.getvalue()


def test_other_devices_threads_and_versions_are_told():
    cell = comparisons.cell(seeds=2)

    def on(device: str, version: str) -> dict[str, Any]:
        return {"machine": {"device": device, "threads": 1}, "versions": {"numpy": version}}

    same = [replace(run, environment=on("cpu", "2.1")) for run in cell.runs]
    alike = comparisons.comparison(replace(cell, runs=tuple(same), tuning=()))
    assert Report(alike).data.differences == []
    other = [*same[:-1], replace(same[-1], environment=on("NVIDIA <b>", "2.2"))]
    made = Report(comparisons.comparison(replace(cell, runs=tuple(other), tuning=())))
    device, numpy = made.data.differences
    assert "different devices" in device
    assert "cpu (7 runs), NVIDIA <b> (1 run)" in device
    assert "different versions of numpy: 2.1 (7 runs), 2.2 (1 run)" in numpy
    assert "NVIDIA &lt;b&gt; (1 run)" in made.html()
    assert "different devices" in made.markdown()


def test_sizes_are_in_order_and_the_default_takes_its_place_in_the_sweep():
    data = Report(comparisons.rich_comparison()).data
    score, gain = size_curves(data)
    assert [text for _, text in score.ticks] == ["100", "500", "all"]
    assert len(score.lines) == 7
    smart = next(line for line in gain.lines if line.label == "smart")
    assert smart.points[0][1] > smart.points[1][1] > smart.points[2][1]
    sweep = sweep_curves(data)[0]
    assert [text for _, text in sweep.ticks] == ["1", "3", "5"]
    means = {m.label: m.gain.mean for m in data.cells[0].main.methods if m.gain}
    expected = [means[name] for name in ("smart", "smart(weight=3.0)", "smart(weight=5.0)")]
    assert [y for _, y in sweep.lines[0].points] == expected


def test_curves_leave_out_what_is_no_number():
    runs = [
        comparisons.run("none", 1, training={"curve": [[1, 0.5], [2, float("nan")], [3, 0.3], "x", [4]]}),
        comparisons.run("none", 2, training={"curve": [[1, 0.7], [2, 0.6], [3, 0.5]]}),
        comparisons.run("none", 3, None, status="diverged", training={"curve": [[1, 9e9], [3, 9e9]]}),
    ]
    data = Report(comparisons.comparison(comparisons.cell(runs=tuple(runs)))).data
    (line,) = training_curves(data.cells[0])[0].lines
    assert line.points == ((1.0, 0.6), (3.0, 0.4))
    assert line.band == ((1.0, 0.5, 0.7), (3.0, 0.3, 0.5))


@pytest.mark.parametrize(
    "changes",
    [
        {"runs": ()},
        {"runs": (comparisons.run(),)},
        {"runs": tuple(comparisons.run(c, 1, None) for c in ("none", "smart"))},
        {"test_splits": ()},
        {"runs": tuple(comparisons.run(c, s, metrics={}, training={}) for c in ("none", "smart") for s in (1, 2))},
        {"metric": "mse", "greater_is_better": False},
        {"runs": tuple(comparisons.run(c, s, 0.5) for c in ("none", "smart") for s in range(7))},
    ],
    ids=["nothing", "one-run", "all-failed", "no-test", "empty-metrics", "other-metric", "all-equal"],
)
def test_thin_comparisons_have_a_report(changes, tmp_path):
    made = Report(comparisons.comparison(comparisons.cell(**changes)))
    files = made.write(tmp_path)
    assert all(file.stat().st_size for file in files)
    assert "nan" not in Tags(made.html()).text.lower()


def test_the_page_fetches_nothing_and_runs_nothing(page):
    tags = Tags(page).tags
    assert not [tag for tag, _ in tags if tag in {"script", "iframe", "object", "embed", "form", "base"}]
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action"):
            link = attributes.get(name)
            assert link is None or link.startswith("#") or (tag, link) == ("link", "data:,")
    assert not re.search(r"url\((?!#)|@import|https?:", page)
    policy = [a["content"] for t, a in tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert (policy[0] or "").startswith("default-src 'none'")


def test_ids_are_unique_and_labels_lead_somewhere(page):
    tags = Tags(page).tags
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids
        link = attributes.get("href") or ""
        assert not link.startswith("#") or link[1:] in ids
        if tag == "svg":
            assert attributes["role"] == "img"
            assert len(attributes["aria-label"] or "") > 20
        if attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0"
            assert attributes.get("aria-labelledby") or attributes.get("aria-label")


@pytest.fixture(scope="module")
def hostile() -> Report:
    return Report(hostile_comparison())


def test_hostile_text_stays_text_in_html(hostile):
    page = hostile.html()
    parsed = Tags(page)
    known = {tag for tag, _ in Tags(Report(comparisons.rich_comparison()).html()).tags}
    assert {tag for tag, _ in parsed.tags} <= known
    assert "script" not in known
    assert not [a for _, a in parsed.tags if any(name.startswith("on") for name in a)]
    assert "<script>window.stolen=1</script>" in parsed.text
    assert "{{7*7}}" in parsed.text
    assert not {"\x00", "\x1b", "\u202e"} & set(page)
    page.encode()


def test_hostile_text_stays_text_elsewhere(hostile, tmp_path):
    files = hostile.write(tmp_path)
    assert len(files) == 5
    markdown = hostile.markdown()
    before_command = markdown[: markdown.index("Repeat it")]
    assert "<script" not in before_command
    assert not {"\x00", "\x1b", "\u202e"} & set(markdown)
    tables = [line for line in before_command.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    # No name opens a column: lost runs, equal compute, scores with and without what not all tables have.
    assert widths <= {5, 8, 16, 17, 18}
    for line in csv.DictReader(io.StringIO(hostile.csv())):
        assert not [value for value in line.values() if value and value[0] in "=+@"]
    content = json.loads((tmp_path / "report.json").read_text())
    assert "<script>" in content["comparison"]["command"]
    _, header, text = hostile.model_card().split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "transformers"
    assert "<script" not in text[: text.index("Repeat the comparison")]


def test_csv_has_every_run_and_split():
    cell = comparisons.cell(failed=[("smart", 44)])
    lines = list(csv.DictReader(io.StringIO(Report(comparisons.comparison(cell)).csv())))
    assert len(lines) == len(cell.runs) * 3 + len(cell.tuning)
    kept = {(x["candidate"], x["seed"]): x for x in lines if x["split"] == "imdb"}
    assert float(kept["smart", "43"]["score"]) == cell.scores("smart", "imdb")[43]
    assert (kept["smart", "44"]["score"], kept["smart", "44"]["status"]) == ("", "failed")
    negative = comparisons.cell(runs=(comparisons.run(score=-0.5),))
    assert "-0.5" in Report(comparisons.comparison(negative)).csv()  # a number is no formula


def test_json_can_be_read_again():
    made = comparisons.rich_comparison()
    content = json.loads(Report(made).json())
    again = comparison_from_json(content["comparison"])
    assert json.dumps(again.as_json()) == json.dumps(made.as_json())
    assert content["cells"][0]["statistics"][0]["rows"][2]["candidate"] == "smart"
    infinite = comparisons.cell(runs=(comparisons.run(training={"curve": [[1, float("inf")]]}),))
    assert "Infinity" not in Report(comparisons.comparison(infinite)).json()


def test_model_card_is_of_the_best_model_on_validation_data():
    # The larger cell comes second, and its best run is not of the method that the verdict is for.
    small, large = comparisons.cell(seeds=8, base=0.6, train_size="100"), comparisons.cell(seeds=8, base=0.8)
    best = max((*small.runs, *large.runs), key=lambda run: run.metrics["after"]["validation"]["accuracy"])
    assert best in large.runs
    made = Report(comparisons.comparison(small, large))
    card = ModelCard(made.model_card())
    results = {result.dataset_split: result for result in card.data.eval_results or ()}
    assert {split: r.metric_value for split, r in results.items()} == {
        s: best.score(s, "accuracy") for s in ("test", "imdb")
    }
    test = results["test"]
    assert (test.task_type, test.metric_type, test.dataset_name) == (
        "text-classification",
        "accuracy",
        "movie-reviews",
    )
    assert f"seed {best.seed}" in card.text
    assert f"runs/{best.key}/model" in card.text
    assert card.data.base_model is None, "minilm is no name on the Hub"
    # What the Hub reads is what it writes again.
    assert ModelCardData(**card.data.to_dict(), ignore_metadata_errors=False).to_yaml() == card.data.to_yaml()


def test_model_card_names_model_data_and_kind_of_task_as_the_hub_does():
    cell = comparisons.cell({"none": (0, 0), "smart": (-0.2, 0.002)}, seeds=8, task="rte", test_splits=())
    settings = {"model": "google-bert/bert-base-uncased"}
    card = ModelCard(Report(comparisons.comparison(cell, settings=settings)).model_card())
    assert card.data.model_name == "bert-base-uncased with plain on rte"
    assert card.data.base_model == "google-bert/bert-base-uncased"
    tagged = comparisons.cell(seeds=8, task="wnut17", test_splits=("test",))
    data = ModelCard(Report(comparisons.comparison(tagged)).model_card()).data
    assert data.pipeline_tag == "token-classification"
    record = task_record("wnut17")
    [result] = data.eval_results or ()
    assert (result.dataset_type, result.dataset_config) == (record.hub_id, record.hub_config)
    assert Report(comparisons.comparison(comparisons.cell(runs=()))).model_card() == ""


def test_each_task_has_a_model_card(tmp_path):
    cells = (comparisons.cell(), comparisons.cell(task="rte"), comparisons.cell(task="my/own rows"))
    files = [path.name for path in Report(comparisons.comparison(*cells)).write(tmp_path)]
    assert files[4:] == ["model-card.md", "model-card-rte.md", "model-card-my_own_rows.md"]
    assert "on rte" in (tmp_path / "model-card-rte.md").read_text()


def test_the_verb_writes_every_form_and_says_where(folder, capsys):
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    for name in ("report.html", "report.md", "report.csv", "report.json", "model-card.md"):
        assert (folder / name).stat().st_size > 500
        assert str(folder / name) in out
    assert out.splitlines()[0] == report(folder).sentence
    assert main(["report", str(folder), "--output-dir", str(folder / "deep" / "er"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert (folder / "deep" / "er" / "report.html").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"format_version": 99}'])
def test_a_folder_without_a_comparison_is_told_in_one_line(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(SettingsError):
        report(tmp_path)
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_an_unfinished_page_does_not_replace_a_whole_one(folder, monkeypatch):
    made = report(folder)
    made.write(folder)
    before = (folder / "report.html").read_text()
    half = "steadytune.support.atomic_files.write_text"
    monkeypatch.setattr(half, lambda path, _: (path.write_bytes(b"half"), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        made.write_html(folder / "report.html")
    assert (folder / "report.html").read_bytes().decode() == before


def test_show_prints_or_shows_a_frame(monkeypatch, capsys):
    made = Report(comparisons.comparison())
    monkeypatch.setitem(sys.modules, "IPython", None)
    made.show()
    assert capsys.readouterr().out.startswith("# ")
    shown: list[str] = []
    display = types.SimpleNamespace(HTML=str, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=object))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    made.show(height=500)
    (tag, attributes), *_ = Tags(shown[0]).tags
    assert (tag, attributes["srcdoc"]) == ("iframe", made.html())
    assert "height:500px" in (attributes["style"] or "")


def test_labels_move_apart_and_keep_their_order():
    moved = spread([5.0, 5.0, 6.0, 100.0], 10.0)
    assert moved == sorted(moved)
    assert all(b - a >= 10.0 - 1e-9 for a, b in pairwise(moved))
    assert moved[3] == 100.0


def test_text_helpers():
    assert shortened("x" * 40, 10).count("…") == 1
    assert len(shortened("x" * 40, 10)) == 11
    assert signed(-0.0) == "0.000"
    assert plain_text("\ud800").isascii()
    assert "\n" not in table_cell("a\n| b")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, hostile: Report) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {
        "one": Report(comparisons.comparison(comparisons.cell(seeds=8, failed=[("smart", 44)]))),
        "rich": Report(comparisons.rich_comparison()),
        "hostile": hostile,
    }
    return {name: each.write_html(folder / f"{name}.html") for name, each in made.items()}


def opened(browser: Any, file: Path, width: int = 1400, scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(file.as_uri())


#: Text nodes on the page that are seen: size, contrast with the surface behind it, and whether it lies in the window.
READABLE = """
const lum = c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => { v /= 255;
  return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (c && !/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255,255,255)'; };
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); const found = [];
while (walker.nextNode()) { const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
  if (!text || e.closest('title') || e.closest('.skip') || !e.checkVisibility()) continue;
  const s = getComputedStyle(e), svg = e.closest('svg'), box = e.getBoundingClientRect();
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  const [a, b] = [lum(svg ? s.fill : s.color), lum(behind(e))].sort((x, y) => y - x);
  const limits = svg ? svg.closest('figure').getBoundingClientRect() : null;
  found.push({text, size: parseFloat(s.fontSize) * scale, contrast: (a + 0.05) / (b + 0.05),
    inside: !limits || (box.left >= limits.left - 1 && box.right <= limits.right + 1)}); }
return found;
"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", ["one", "rich", "hostile"])
def test_a_browser_shows_it_readably_and_asks_for_nothing(browser, pages, name, width, scheme):
    opened(browser, pages[name], width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if url not in (pages[name].as_uri(), "data:,")] == []
    texts = browser.execute_script(READABLE)
    assert len(texts) > 200
    assert [t for t in texts if t["size"] < 11] == []
    assert [t for t in texts if t["contrast"] < 4.5] == []
    assert [t for t in texts if not t["inside"]] == []
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 24)"
    assert dark == (scheme == "dark")


@needs_browser
def test_hostile_text_does_nothing_in_a_browser(browser, pages):
    opened(browser, pages["hostile"])
    assert browser.execute_script("return window.stolen") is None
    assert browser.execute_script("return document.querySelectorAll('script, img, body > title').length") == 0
    assert "<script>window.stolen=1</script>" in browser.execute_script("return document.body.textContent")


@needs_browser
def test_everything_is_reached_by_keyboard_and_shows_where_one_is(browser, pages):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["one"], 400)
    where = (
        "const e = document.activeElement, s = getComputedStyle(e); "
        "return [e.tagName, e.className, e.textContent.trim(), s.outlineStyle, parseFloat(s.outlineWidth)]"
    )
    seen = []
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        tag, name, text, style, width = browser.execute_script(where)
        if tag == "BODY":
            break
        assert style == "solid", (tag, text)
        assert width >= 2
        seen.append((tag, name))
    assert seen[0] == ("A", "skip")
    tables = browser.execute_script("return document.querySelectorAll('.scroll').length")
    hidden = browser.execute_script("return document.querySelectorAll('details .scroll').length")
    assert seen.count(("DIV", "scroll")) == tables - hidden
    assert [tag for tag, _ in seen].count("SUMMARY") == 3
    wide = browser.find_element("css selector", ".scroll")
    assert browser.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", wide)


@needs_browser
def test_a_screen_reader_hears_every_plot_and_table(browser, pages):
    opened(browser, pages["one"])
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]

    def names(role: str) -> list[str]:
        kept = [n for n in nodes if not n["ignored"] and n["role"]["value"] == role]
        return [n.get("name", {}).get("value", "") for n in kept]

    plots = browser.execute_script(
        "return [...document.querySelectorAll('svg')].filter(e => e.checkVisibility()).length"
    )
    assert len(names("image")) == plots
    assert all(len(name) > 20 for name in names("image"))
    assert all(names("region"))
    assert all(names("table"))
    assert len(names("heading")) > 8
