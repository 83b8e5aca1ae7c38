"""What a store, its names and its URL can do: nothing outside the copy's folder, nothing that was not asked for."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fuzz_command import DONE, REFUSED, command
from fuzz_model import tiny_model_folder
from helpers import tiny_model

from steadytune.comparison.remote import RemoteFolder, open_remote
from steadytune.errors import SettingsError
from steadytune.settings.compare import CompareSettings
from steadytune.settings.resolve import resolve

URL = "memory://lab/first"


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def hostile_store(monkeypatch: pytest.MonkeyPatch, memory: Any, listing: dict[str, bytes], **told: Any) -> None:
    """A store that tells any names, and any sizes."""
    found = {f"/lab/first/{name}": {"size": len(content), "type": "file", **told} for name, content in listing.items()}
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: found)
    monkeypatch.setattr(
        type(memory), "open", lambda _, path, *__, **___: io.BytesIO(listing[path.removeprefix("/lab/first/")])
    )


OUTSIDE = (
    *("runs/a/../../../../queue.py", "../queue.py", "runs/a//etc/passwd", "runs/a/./x", "runs/a/..", ".."),
    *("runs/a/..\\..\\queue.py", "runs/a/C:queue.py", "runs/a/x\nqueue.py", "runs/a/\x1b]0;evil\x07", "runs/a/x."),
    "runs/a/\u202epy.queue",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_of_the_folder_is_refused(
    memory: Any, monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    hostile_store(monkeypatch, memory, {"runs/a/record.json": b"{}", name: b"print('evil')"})
    with pytest.raises(SettingsError, match="no name of a file of a comparison") as error:
        RemoteFolder(URL).fetch()
    assert str(error.value).isprintable()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_only_runs_and_searches_are_fetched(memory: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = {"runs/a/record.json": b"{}", "runs/a/model/config.json": b"{}", "search/x.journal": b""}
    others = {
        "record.json": b"{}",
        "compare.yaml": b"",
        "queue.py": b"",
        "other/b/record.json": b"{}",
        "search/y": b"",
    }
    hostile_store(monkeypatch, memory, wanted | others)
    remote = RemoteFolder(URL)
    remote.fetch()
    local = remote.local.absolute()
    assert {str(path.relative_to(local)) for path in tmp_path.rglob("*") if path.is_file()} == set(wanted)


def test_a_link_in_the_copy_is_not_followed(memory: Any, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    memory.pipe_file("/lab/first/runs/a/record.json", b"{}")
    local = RemoteFolder(URL).local
    local.mkdir(parents=True)
    (local / "runs").symlink_to(outside)
    with pytest.raises(SettingsError, match="is a link"):
        RemoteFolder(URL).fetch()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("told", "said"),
    [({"size": 1}, "is longer than"), ({"size": 2**60}, "are free here"), ({"size": None}, "no size")],
)
def test_a_file_of_a_store_ends_where_it_should(
    memory: Any, monkeypatch: pytest.MonkeyPatch, told: Any, said: str, tmp_path: Path
) -> None:
    hostile_store(monkeypatch, memory, {"runs/a/record.json": b" " * 5000}, **told)
    with pytest.raises(SettingsError, match=said):
        RemoteFolder(URL).fetch()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "url",
    [
        *("zip://::http://evil.example/evil.zip", "zip://evil.zip", "tar://a.tar", "libarchive://a.7z"),
        *(
            "simplecache::s3://bucket/x",
            "s3://a::s3://b",
            "reference://x.json",
            "http://evil.example/x",
            "HTTPS://e/x",
        ),
        *("dir::s3://x", "github://a:b@c/x", "filecache::http://e"),
    ],
)
def test_an_output_is_no_archive_chain_or_page(url: str, memory: Any) -> None:
    with pytest.raises(SettingsError, match="--output-dir"):
        open_remote(url)


def evil_archive(place: Path) -> str:
    """A comparison in an archive whose one name leads to a module beside the caller."""
    with zipfile.ZipFile(place / "evil.zip", "w") as archive:
        archive.writestr("runs/a/record.json", "{}")
        archive.writestr("runs/a/../../../../queue.py", "import os; os.mkdir('executed')")
    return f"zip://::file://{place}/evil.zip"


def test_a_configuration_alone_runs_nothing_and_fetches_nothing(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    model = tiny_model_folder(place)
    tiny_model.write_csv(place / "t.csv", tiny_model.rows(12))
    monkeypatch.chdir(place)
    for url in (evil_archive(tmp_path), "memory://lab/first", "s3://me:hidden@bucket/x"):
        text = f"train_file: t.csv\nmodel: ./{model.name}\nmethods: none\noutput_dir: '{url}'\n"
        (place / "c.yaml").write_text(text)
        before = sorted(place.rglob("*"))
        for more in ([], ["--plan"]):
            outcome = command(["compare", "--config", "c.yaml", *more])
            assert outcome.status == REFUSED
            assert "hidden" not in outcome.line
        assert sorted(place.rglob("*")) == before
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: pytest.fail("asked the store"))
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda *_, **__: pytest.fail("opened the store"))
    options = [
        "--train-file",
        "t.csv",
        "--validation-file",
        "t.csv",
        "--model",
        f"./{model.name}",
        "--methods",
        "none",
    ]
    assert command(["compare", *options, "--plan", "--output-dir", URL]).status == DONE


@pytest.mark.parametrize(
    ("allowed", "url", "is_allowed"),
    [
        ("", URL, False),
        ("memory://lab", URL, True),
        ("s3://x memory://lab/first/", URL, True),
        ("memory://la", URL, False),
        ("memory://lab/x", "memory://lab/x/../first", False),
    ],
)
def test_the_environment_says_which_urls_a_file_may_name(
    allowed: str, url: str, is_allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text(f"output_dir: {url}\n")
    monkeypatch.setenv("STEADYTUNE_OUTPUT_URLS", allowed)
    if is_allowed:
        assert resolve(CompareSettings, {}, tmp_path / "c.yaml").output_dir == url
    else:
        with pytest.raises(SettingsError, match="on the command line"):
            resolve(CompareSettings, {}, tmp_path / "c.yaml")
