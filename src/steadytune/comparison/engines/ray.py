"""Runs on a Ray cluster: each a task with its GPU, made again from its last checkpoint when its node dies.

The folder of the comparison is best on a file system that all nodes share: whichever node takes a run over then finds
its checkpoints. A node that does not see it makes the run in a folder of its own, and the files come back with the
record. Data files and model folders must have the same path on every node.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steadytune.comparison.engines import ray_task
from steadytune.comparison.engines.engine import RunListener
from steadytune.comparison.engines.execute import keep_failure
from steadytune.comparison.engines.starting import away_from_here
from steadytune.comparison.kept_record import as_planned, kept_record
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord, record_from_json
from steadytune.errors import SettingsError
from steadytune.support.text import one_line
from steadytune.support.writing import make_folder, remove_file, write_text, writes_below

#: Seconds between two looks at what the runs tell, and at runs that another process is making.
LOOK_AGAIN = 0.5
#: Seconds that runs have for their last checkpoint when the comparison is stopped.
GRACE = 120.0
#: Seconds to reach the head of a cluster.
REACH = 10.0


class RayEngine:
    """Runs as tasks of a Ray cluster.

    Args:
        folder: of the comparison.
        address: of a cluster: ``ray://host:10001``, ``host:6379`` or ``auto``; without one, that of ``RAY_ADDRESS``,
            or a cluster is started on this machine.
        workers: runs at the same time, where the cluster is started here.
        retries: how often a run is made again whose node or process was lost.
        cpus: processors for each run.
        gpus: GPUs for each run; else one where the cluster has any.

    Raises:
        SettingsError: Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(
        self,
        folder: Path,
        address: str | None = None,
        *,
        workers: int = 1,
        retries: int = 3,
        cpus: float = 1,
        gpus: float | None = None,
    ) -> None:
        self._ray = _imported()
        self.folder = folder.absolute()
        self._connected_here = not self._ray.is_initialized()
        if self._connected_here:
            _connect(self._ray, address or os.environ.get("RAY_ADDRESS"), workers)
        resources = self._ray.cluster_resources()
        gpus = float(resources.get("GPU", 0) > 0) if gpus is None else gpus
        if gpus > resources.get("GPU", 0):
            self._leave()
            raise SettingsError(
                f"--engine ray: a run needs {gpus:g} GPU, and the cluster has {resources.get('GPU', 0):g}."
            )
        #: Runs at the same time that the cluster has room for at present.
        self.workers = _room(resources, cpus, gpus)
        self._task = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=retries)(ray_task.make_run)
        self._retries = retries
        board = self._ray.remote(num_cpus=0, max_restarts=-1)(ray_task.Board)
        self._board: Any = board.remote()
        self._news: Any = self._board.take.remote()
        self._runs: dict[Any, RunPlan] = {}
        self._seen: dict[str, str] = {}
        self._going_on: set[str] = set()

    def run(self, plans: Sequence[RunPlan], watch: RunListener) -> Iterator[RunRecord]:
        """Make runs and yield their records as they end; those made before come first."""
        marker = self.folder / "locks" / f"seen-by-nodes-{uuid.uuid4().hex}"
        with writes_below(self.folder):
            make_folder(marker.parent)
            write_text(marker, "")
        try:
            for plan in plans:
                found = kept_record(plan)
                if found is None:
                    self._submit(plan, marker)
                else:
                    yield found
            busy: list[RunPlan] = []
            while self._runs or busy:
                for plan in busy:  # another comparison is at them; once it is not, their record is found
                    self._submit(plan, marker)
                ended, _ = self._ray.wait(list(self._runs), timeout=LOOK_AGAIN)
                self._pass_on(watch)
                outcomes = [self._ended(ref) for ref in ended]
                busy = [plan for plan, record in outcomes if record is None]
                yield from (record for _, record in outcomes if record is not None)
                if busy:
                    time.sleep(LOOK_AGAIN)
        finally:
            remove_file(marker)

    def _submit(self, plan: RunPlan, marker: Path) -> None:
        ref = self._task.remote(plan.as_json(), str(Path.cwd()), str(marker), self._board)
        self._runs[ref] = plan

    def _ended(self, ref: Any) -> tuple[RunPlan, RunRecord | None]:
        """The record of a task; ``None`` if another process was at the run."""
        plan = self._runs.pop(ref)
        try:
            outcome: Mapping[str, Any] = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # our own code failed there
            return plan, self._failed(plan, one_line(error.cause if error.cause is not None else error))
        except self._ray.exceptions.RayError as error:
            times = self._retries + 1
            return plan, self._failed(plan, f"lost {times} times with its node or process ({_kind(error)})")
        if outcome["record"] is None:
            return plan, None
        record = as_planned(record_from_json(outcome["record"]), plan)
        if outcome["files"] is not None:
            ray_task.unpack(outcome["files"], plan)
        return plan, record

    def _failed(self, plan: RunPlan, why: str) -> RunRecord:
        return keep_failure(plan, why)

    def _pass_on(self, watch: RunListener) -> None:
        """Tell the watch what the runs have told the board."""
        plans = {plan.key: plan for plan in self._runs.values()}
        for key, event, content in self._taken():
            plan = plans.get(key)
            if plan is None:
                continue
            if event == "began":
                self._began(plan, content["node"], watch)
            elif event == "step":
                watch.step(plan, content["done"], content["total"], content["loss"])
            elif event == "note":
                watch.note(plan, content["text"])
            elif event == "warning":
                watch.warning(plan, content["kind"], content["text"])

    def _taken(self, wait: float = 0) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Return the events that have arrived and the runs still in progress."""
        ready, _ = self._ray.wait([self._news], timeout=wait)
        if not ready:
            return []
        try:
            news = self._ray.get(self._news)
        except self._ray.exceptions.RayError:
            news = []  # the board's node died; it is started again elsewhere
        self._news = self._board.take.remote()
        for key, event, _ in news:
            if event == "began":
                self._going_on.add(key)
            elif event == "ended":
                self._going_on.discard(key)
        return news

    def _began(self, plan: RunPlan, node: str, watch: RunListener) -> None:
        if plan.key in self._seen:
            watch.note(plan, f"The run was lost with its node or process on {self._seen[plan.key]}; now on {node}.")
        self._seen[plan.key] = node
        watch.started(plan)

    def close(self) -> None:
        """Stop runs in progress, which save a checkpoint first. Leave the cluster; end it if it was started here."""
        try:
            self._taken(wait=LOOK_AGAIN)
            for ref in self._runs:
                self._ray.cancel(ref, force=False)  # SIGINT in the run, which ends with a checkpoint
            # Ray calls a canceled task done at once; the board hears when it really is.
            stopping = {plan.key for plan in self._runs.values()}
            end = time.monotonic() + GRACE
            while stopping & self._going_on and time.monotonic() < end:
                self._taken(wait=LOOK_AGAIN)
                time.sleep(LOOK_AGAIN / 5)
        finally:
            for ref in self._runs:
                self._ray.cancel(ref, force=True)
            self._runs.clear()
            self._leave()
            if not self._connected_here:
                self._ray.kill(self._board)

    def _leave(self) -> None:
        if self._connected_here:
            self._ray.shutdown()


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray
    except ImportError:
        raise SettingsError("--engine ray needs Ray: pip install 'steadytune[ray]'.") from None
    return ray


def _connect(ray: Any, address: str | None, workers: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address in (None, "local"):
        with away_from_here():
            ray.init(num_cpus=workers, include_dashboard=False, **options)
        return
    try:
        if address != "auto":
            _knock(address)  # Ray itself would try for minutes
        with away_from_here():  # Ray would tell every worker to import from the current folder first
            ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        reason = one_line(error)
        raise SettingsError(f"--ray-address {address}: no cluster can be reached there ({reason}).") from error


def _knock(address: str) -> None:
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError("write it as ray://host:10001, host:6379 or auto")
    socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()


def _room(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    rooms = [resources.get(name, 0) / share for name, share in (("CPU", cpus), ("GPU", gpus)) if share]
    return max(1, int(min(rooms, default=1)))


def _kind(error: BaseException) -> str:
    return type(error).__name__.removesuffix("Error")
