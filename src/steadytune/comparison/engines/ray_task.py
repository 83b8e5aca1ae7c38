"""What happens on a node of a Ray cluster: one run, and the board that hears how runs go."""

from __future__ import annotations

import io
import os
import socket
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from steadytune.comparison.engines.messages import MessageReporter
from steadytune.comparison.plan import RunPlan
from steadytune.support.writing import file_lock, make_folder, remove_folder, rename, writes_below

#: Seconds between two messages on the updates of a run.
PACE = 0.5
#: Messages that the board keeps while nobody takes them.
MOST_NEWS = 10_000


class Board:
    """An actor that runs tell their news, and that the comparison reads."""

    def __init__(self) -> None:
        self._news: list[tuple[str, str, Mapping[str, Any]]] = []

    def tell(self, key: str, event: str, content: Mapping[str, Any]) -> None:
        """Take down a message."""
        self._news.append((key, event, content))
        del self._news[:-MOST_NEWS]

    def take(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """All messages since the last call."""
        news, self._news = self._news, []
        return news


class _Teller(MessageReporter):
    """A reporter that sends what a run tells to the board, and never waits for it."""

    def __init__(self, board: Any, key: str) -> None:
        super().__init__(PACE)
        self._board, self._key = board, key

    def send(self, event: str, **content: Any) -> None:
        """Send one message."""
        self._board.tell.remote(self._key, event, content)

    def start(self, total: int, done: int) -> None:
        """Send that training begins here, and the number of updates."""
        self.send("began", node=socket.gethostname())
        super().start(total, done)


def make_run(content: Mapping[str, Any], place: str, marker: str, board: Any) -> dict[str, Any]:
    """Make one run on this node.

    Args:
        content: a plan, as `RunPlan.as_json` wrote it.
        place: working folder of the comparison, from which its paths start.
        marker: a file in the comparison's folder; a node that finds it shares the folder.
        board: told how the run goes.

    Returns:
        ``record``, ``None`` if another process is at the run or it was stopped; ``files``, those of the run where the
        node does not share the folder.
    """
    from steadytune.comparison.engines.engine import BusyError
    from steadytune.comparison.engines.execute import execute
    from steadytune.support.quiet_libraries import quiet_libraries
    from steadytune.training.skeleton import Interrupted

    quiet_libraries()
    if Path(place).is_dir():
        os.chdir(place)
    plan = RunPlan.from_json(content)
    teller = _Teller(board, plan.key)
    _refuse_other_code(plan)
    shared = Path(marker).is_file()
    home = None if shared else tempfile.mkdtemp(prefix="steadytune-")
    if home is not None:
        folder = str(Path(home) / "runs" / plan.key)
        plan = replace(plan, settings=plan.settings.model_copy(update={"output_dir": folder}))
    try:
        with teller.warnings_sent():
            record = execute(plan, teller, wait=False)
        return {"record": asdict(record), "files": None if shared else packed(plan.folder)}
    except (BusyError, Interrupted):
        return {"record": None, "files": None}
    finally:
        teller.send("ended")
        if home is not None:
            remove_folder(Path(home))


def _refuse_other_code(plan: RunPlan) -> None:
    from steadytune.comparison.fingerprint import code_digest
    from steadytune.errors import SettingsError

    expected = plan.fingerprint.get("code")
    if expected is not None and expected != code_digest():
        raise SettingsError(
            f"the node {socket.gethostname()} has another version of steadytune, torch or transformers than the "
            "machine that compares: install the same ones."
        )


def packed(folder: Path) -> bytes:
    """The files of a run, without its checkpoints."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and name.parts[0] != "checkpoints":
                archive.write(path, name)
    return buffer.getvalue()


def unpack(content: bytes, plan: RunPlan) -> None:
    """Put the files of a run into its folder, the record last."""
    with writes_below(plan.home):
        make_folder(plan.lock_file.parent)
        with file_lock(plan.lock_file), zipfile.ZipFile(io.BytesIO(content)) as archive:
            arrived = plan.folder.with_name(f"{plan.folder.name}.arrived")
            remove_folder(arrived)
            make_folder(arrived)
            archive.extractall(arrived)
            make_folder(plan.folder)
            for path in sorted(arrived.iterdir(), key=lambda p: p.name == "record.json"):
                target = plan.folder / path.name
                if target.is_dir():
                    remove_folder(target)
                rename(path, target)
            remove_folder(arrived)
