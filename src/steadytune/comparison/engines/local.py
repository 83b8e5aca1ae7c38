"""Runs in worker processes on this machine: one that crashes or is killed fails its run only."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from steadytune.comparison.engines.engine import RunListener
from steadytune.comparison.engines.execute import keep_failure
from steadytune.comparison.engines.starting import python_command, safe_environment
from steadytune.comparison.kept_record import as_planned, is_locked, kept_record
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord, record_from_json
from steadytune.errors import SettingsError
from steadytune.support.writing import make_folder, open_file, writes_below

#: Seconds between two looks at runs that another process is making.
LOOK_AGAIN = 0.5
#: Seconds that runs have for their last checkpoint when the comparison is stopped.
GRACE = 120.0


class _Worker:
    """A child process, the plan it is at, and a thread that reads what it tells."""

    def __init__(self, news: queue.Queue[tuple[_Worker, dict[str, Any] | None]], log: Path, threads: int) -> None:
        self.plan: RunPlan | None = None
        self.ready = False
        self._log = log
        with open_file(log, "ab") as errors:
            self.process = subprocess.Popen(
                python_command("steadytune.comparison.engines.local_worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=safe_environment(OMP_NUM_THREADS=str(threads)),
                start_new_session=True,  # Ctrl-C is for the parent, which asks gently
            )
        threading.Thread(target=self._read, args=(news,), daemon=True).start()
        threading.Thread(target=self._end_children, daemon=True).start()

    def _read(self, news: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            news.put((self, json.loads(line)))
        self.process.wait()
        news.put((self, None))

    def _end_children(self) -> None:
        """Wait for the end of the process, and end what it started: that would keep its output open for ever."""
        if hasattr(os, "waitid"):  # leaves its number taken until the group is ended
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        else:
            self.process.wait()
        _kill_group(self.process.pid)

    def send(self, **message: Any) -> None:
        """Send a message, unless the process has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return

    def how_it_ended(self) -> str:
        """In words, once the process has ended."""
        status = self.process.returncode
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            why = " (out of memory?)" if name == "SIGKILL" else ""
            return f"the process of the run was ended by {name}{why}"
        return f"the process of the run ended with status {status}; {self._log} may tell why"

    def end(self) -> None:
        """End the process and its children at once."""
        _kill_group(self.process.pid)
        self.process.kill()
        self.process.wait()


class LocalEngine:
    """Worker processes on this machine; they stay for all runs, so that libraries are imported once.

    Args:
        folder: of the comparison; what workers print is kept there.
        workers: runs at the same time.
    """

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.folder, self.workers = folder, workers
        self.threads = max(1, len(os.sched_getaffinity(0)) // workers if hasattr(os, "sched_getaffinity") else 1)
        self._news: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._alive: list[_Worker] = []

    def run(self, plans: Sequence[RunPlan], watch: RunListener) -> Iterator[RunRecord]:
        """Make runs and yield their records as they end; those made before come first."""
        waiting: deque[RunPlan] = deque()
        for plan in plans:
            found = kept_record(plan)
            if found is None:
                waiting.append(plan)
            else:
                yield found
        while waiting or any(w.plan for w in self._alive):
            yield from self._hand_out(waiting, watch)
            if not waiting and not any(w.plan for w in self._alive):
                return  # the last ones were made by another process
            busy_elsewhere = bool(waiting) and not all(w.plan for w in self._alive)
            try:
                worker, message = self._news.get(timeout=LOOK_AGAIN if busy_elsewhere else None)
            except queue.Empty:
                continue
            record = self._heard(worker, message, waiting, watch)
            if record is not None:
                yield record

    def _hand_out(self, waiting: deque[RunPlan], watch: RunListener) -> Iterator[RunRecord]:
        """Give plans to idle workers; runs that another process is making or has made are skipped."""
        for _ in range(len(waiting)):
            idle = next((w for w in self._alive if w.plan is None), None)
            if idle is None and len(self._alive) >= self.workers:
                return
            plan = waiting.popleft()
            if is_locked(plan):
                waiting.append(plan)
                continue
            found = kept_record(plan)
            if found is not None:
                yield found
                continue
            worker = idle or self._start()
            worker.plan = plan
            watch.started(plan)
            worker.send(run=plan.as_json())

    def _start(self) -> _Worker:
        with writes_below(self.folder):
            make_folder(self.folder)
            worker = _Worker(self._news, self.folder / "workers.log", self.threads)
        self._alive.append(worker)
        return worker

    def _heard(
        self, worker: _Worker, message: dict[str, Any] | None, waiting: deque[RunPlan], watch: RunListener
    ) -> RunRecord | None:
        plan = worker.plan
        if message is None:
            return self._lost(worker)
        event = message["event"]
        if event == "ready":
            worker.ready = True
        if plan is None:
            return None
        if event == "step":
            watch.step(plan, message["done"], message["total"], message["loss"])
        elif event == "note":
            watch.note(plan, message["text"])
        elif event == "warning":
            watch.warning(plan, message["kind"], message["text"])
        elif event == "done":
            worker.plan = None
            return as_planned(record_from_json(message["record"]), plan)
        elif event in ("busy", "interrupted"):
            worker.plan = None
            waiting.append(plan)
            time.sleep(0.05)
        return None

    def _lost(self, worker: _Worker) -> RunRecord | None:
        """A worker has ended: its run failed, unless it never came so far as to begin one."""
        if worker in self._alive:
            self._alive.remove(worker)
        if worker.plan is None:
            return None
        if not worker.ready and worker.process.returncode > 0:
            raise SettingsError(f"A worker process could not start: {worker.how_it_ended()}.")
        return keep_failure(worker.plan, worker.how_it_ended())

    def close(self) -> None:
        """Stop the workers; runs in progress save a checkpoint first. Ctrl-C during that ends them at once."""
        try:
            busy = [w for w in self._alive if w.plan is not None]
            for worker in busy:
                worker.send(interrupt=True)
            end = time.monotonic() + GRACE
            while any(w.plan for w in busy if w in self._alive) and time.monotonic() < end:
                try:
                    worker, message = self._news.get(timeout=LOOK_AGAIN)
                except queue.Empty:
                    continue
                if message is None or message["event"] in ("done", "busy", "interrupted"):
                    worker.plan = None
        finally:
            for worker in self._alive:
                worker.end()
            self._alive.clear()


def _kill_group(leader: int) -> None:
    """Kill all processes of a group, if it has any left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
