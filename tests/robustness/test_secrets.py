"""A canary in every variable and URL that a command knows, looked for in every byte that it writes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from fuzz_command import DONE, REFUSED, command
from fuzz_model import tiny_model_folder
from helpers import tiny_model
from huggingface_hub import constants

from steadytune.cli.views.console import PlainTable, Screen
from steadytune.comparison.remote import open_remote
from steadytune.errors import SettingsError
from steadytune.support.secrets import is_secret_url, redact, redact_logs

CANARY = "cnry5e3f81"
#: What each of these holds is nobody's business.
TOKENS = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *(
        "AZURE_STORAGE_ACCOUNT_KEY",
        "GOOGLE_API_KEY",
        "COMET_API_KEY",
        "OPENAI_API_KEY",
        "DB_PASSWORD",
        "NEPTUNE_API_TOKEN",
    ),
)
ADDRESSES = (
    *("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "RAY_ADDRESS"),
    *("AWS_ENDPOINT_URL", "FSSPEC_S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "STEADYTUNE_OUTPUT_URLS"),
)
URLS = (
    *(f"s3://me:{CANARY}@b/x", f"s3://me:a/{CANARY}@b/x", f"s3://{CANARY}@b/x", f"s3://b/x?sig={CANARY}"),
    *(f"https://me:p@ss/{CANARY}@h/x", f"s3://key:{CANARY}/b", f"s3://b/x#{CANARY}", f"zip::https://{CANARY}@h/x"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    tiny_model_folder(place)
    tiny_model.write_csv(place / "t.csv", tiny_model.rows(12))
    return place


@pytest.fixture
def planted(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and an environment full of canaries."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    (place / "t.csv").write_bytes((made / "t.csv").read_bytes())
    (place / "tiny").symlink_to(made / "tiny")
    for name in TOKENS:
        monkeypatch.setenv(name, f"{CANARY}-token")
    for name in ADDRESSES:
        monkeypatch.setenv(name, f"http://user:{CANARY}/pa:ss@127.0.0.1:9/x?k={CANARY}")
    monkeypatch.setattr(constants, "ENDPOINT", os.environ["HF_ENDPOINT"])
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{CANARY}@127.0.0.1:9/x")  # the other one ends every import
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return place


TRAINED = (
    *("--train-file", "t.csv", "--validation-file", "t.csv", "--model", "./tiny", "--max-steps", "2"),
    *("--per-device-train-batch-size", "4", "--max-length", "16", "--use-cpu"),
)
RATE = ("--learning-rates", "1e-3")
DO = {
    "train": ["train", *TRAINED, "--output-dir", "run", "--methods", "smart"],
    "evaluate": ["evaluate", "run", "--only", "calibration", "--json"],
    "compare": [
        "compare",
        *TRAINED,
        "--output-dir",
        "out",
        "--methods",
        "none",
        "--seeds",
        "1",
        "--learning-rates",
        "1e-3",
    ],
    "report": ["report", "out"],
    "plan": ["compare", *TRAINED, "--output-dir", "out", "--methods", "none", "--plan"],
    "init": ["init", "t.csv", "--output", "c.yaml"],
    "perturb": ["perturb", "./tiny", "noisy"],
    "methods": ["methods", "smart"],
    "explain": ["explain", "smart", "--model", "./tiny"],
    "tasks": ["tasks", "rte"],
    "doctor": ["doctor"],
    "no model": ["train", *TRAINED, "--model", "nobody/nothing"],
    "no task": ["train", "--model", "./tiny", "--task", "rte"],
    "no cluster": ["compare", *TRAINED, "--engine", "ray", "--output-dir", "ray", "--methods", "none", "--seeds", "1"],
}


def nothing_of_it_in(place: Path, *said: str) -> None:
    for text in said:
        assert CANARY not in text
    for path in place.rglob("*"):
        assert CANARY not in str(path)
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_no_verb_writes_a_secret_of_the_environment(planted: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, arguments in DO.items():
        outcome = command(arguments)
        assert outcome.status == (REFUSED if name.startswith("no ") else DONE), (name, outcome)
        nothing_of_it_in(planted, outcome.output, outcome.line, *capfd.readouterr())


PLACES = {
    "train": ("--model", "--train-file", "--validation-file", "--test-file", "--data-dir", "--output-dir", "--config"),
    "compare": ("--output-dir", "--ray-address", "--model", "--data-dir", "--methods", "--set", "--task"),
    "multitask": ("--output-dir", "--model", "--tasks"),
    "hybrid": ("--output-dir", "--model"),
    "evaluate": ("", "--output", "--data-dir", "--only"),
    "report": ("", "--output"),
    "perturb": ("", "--noise"),
    "init": ("", "--output", "--model"),
    "explain": ("", "--model"),
    "tasks": ("", "--data-dir"),
    "methods": ("",),
    "": ("", "--nonsense"),
}


@pytest.mark.parametrize("verb", PLACES)
def test_no_verb_repeats_the_secret_of_a_url(planted: Path, verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    own = {
        "train": TRAINED,
        "compare": TRAINED,
        "evaluate": ["run"],
        "report": ["out"],
        "perturb": ["./tiny", "noisy"],
    }
    own |= {"init": ["t.csv"], "explain": ["smart"], "tasks": ["rte"]}
    for option in PLACES[verb]:
        for url in URLS:
            given = [
                *([verb] if verb else []),
                *(own.get(verb, []) if option else []),
                *([option] if option else []),
                url,
            ]
            if verb == "perturb" and not option:
                given = ["perturb", "./tiny", url]
            outcome = command(given)
            assert outcome.status == REFUSED, (given, outcome)
            nothing_of_it_in(planted, outcome.output, outcome.line, *capfd.readouterr())


@pytest.mark.parametrize("url", [url for url in URLS if not url.startswith("zip")])
def test_an_output_with_a_secret_is_refused_unseen(url: str) -> None:
    assert is_secret_url(url)
    with pytest.raises(SettingsError, match="holds a password") as error:
        open_remote(url)
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    "url", ["s3://bucket/a", "gs://b/c:d", "http://[::1]:80/x", "memory://lab/first", "file:///mnt"]
)
def test_a_plain_url_is_no_secret_and_stays(url: str) -> None:
    assert not is_secret_url(url)
    assert redact(f"see {url}, and b") == f"see {url}, and b"


def test_whatever_a_library_logs_is_without_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", f"{CANARY}-token")
    redact_logs()
    logger = logging.getLogger("some.library")
    for url in URLS:
        logger.warning("asked %s", url)
    logger.error("with %s", f"{CANARY}-token")
    try:
        raise ValueError(URLS[0])
    except ValueError:
        logger.exception("it failed")
    assert CANARY not in caplog.text
    assert "Traceback" in caplog.text


HOSTILE = "\x1b[31m\x1b]0;evil\x07\u202e\u200f\x9b2J\x7f\rx"


def test_the_screen_shows_controls_and_marks_of_direction_as_escapes() -> None:
    screen = Screen(force_terminal=True, color_system=None, width=200)
    table = PlainTable(HOSTILE)
    table.add_row(HOSTILE)
    with screen.capture() as capture:
        screen.print(HOSTILE, markup=False)
        screen.print(f"[bold]a[/] {HOSTILE}")
        screen.print(table)
        screen.print(f"http://me:{CANARY}@host/", style="bold")
    text = capture.get().replace("\x1b[1m", "").replace("\x1b[0m", "").replace("\x1b[3m", "")
    assert all(c.isprintable() or c == "\n" for c in text), repr(text)
    assert CANARY not in text


@pytest.mark.parametrize("verb", ["report", "evaluate", "train", "init"])
def test_names_of_folders_and_options_do_not_steer_the_terminal(verb: str, planted: Path) -> None:
    folder = HOSTILE.replace("/", "")
    (planted / folder).mkdir()
    given = {"train": [*TRAINED, "--output-dir"], "init": ["t.csv", "--output"]}.get(verb, [])
    command([verb, *given, folder])  # which refuses whatever is not printable


def test_every_verb_prints_on_the_screen() -> None:
    source = Path(redact.__code__.co_filename).parents[1] / "cli"
    found = [
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if "Console()" in path.read_text(encoding="utf-8")
    ]
    assert found == []
