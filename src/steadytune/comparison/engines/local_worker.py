"""A worker process: makes the runs that its parent sends it, one after the other, and tells how they go.

Plans come as JSON lines on standard input, news go back as JSON lines on what was standard output. When the parent is
gone the worker ends at once; the run continues from its last checkpoint another time.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import threading
from dataclasses import asdict
from typing import Any

from steadytune.comparison.engines.messages import MessageReporter
from steadytune.comparison.plan import RunPlan

#: Seconds between two messages on the updates of a run.
PACE = 0.1


class _Teller(MessageReporter):
    """A reporter that sends what a run tells to the parent.

    Written without a buffer: a signal may come while a message is sent, and what hears it sends one too.
    """

    def __init__(self, channel: int) -> None:
        super().__init__(PACE)
        self._channel = channel

    def send(self, event: str, **content: Any) -> None:
        """Send one message."""
        rest = memoryview(json.dumps({"event": event, **content}).encode() + b"\n")
        while rest:
            rest = rest[os.write(self._channel, rest) :]


def _listen(orders: int, plans: queue.Queue[dict[str, Any]]) -> None:
    """Pass on what the parent sends; when it is gone, end this process and its children.

    Reads the descriptor itself: a thread that waits in `sys.stdin` holds its lock, and a child forked meanwhile would
    wait for that lock for ever.
    """
    rest = b""
    while block := os.read(orders, 1 << 16):
        *lines, rest = (rest + block).split(b"\n")
        for message in map(json.loads, lines):
            if "interrupt" in message:
                os.kill(os.getpid(), signal.SIGINT)  # heard by the run, which saves a checkpoint
            else:
                plans.put(message)
    _end_with_children()


def _end_with_children() -> None:
    """End at once, and every process that a library started here; the parent made this one the leader of a group."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _serve(teller: _Teller, plans: queue.Queue[dict[str, Any]]) -> None:
    from steadytune.comparison.engines.engine import BusyError
    from steadytune.comparison.engines.execute import execute
    from steadytune.support.quiet_libraries import quiet_libraries
    from steadytune.training.skeleton import Interrupted

    quiet_libraries()
    gc.collect()
    gc.freeze()  # the imported libraries need not be looked through in every collection, of which a run has several
    teller.send("ready")
    while True:
        plan = RunPlan.from_json(plans.get()["run"])
        try:
            with teller.warnings_sent():
                record = execute(plan, teller, wait=False)
        except BusyError:
            teller.send("busy")
        except Interrupted:
            teller.send("interrupted")
        else:
            teller.send("done", record=asdict(record))


def main() -> None:
    """Serve until the parent ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent's message, even where it ignores Ctrl-C
    orders, channel = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # whatever a library prints must not get among the messages
    teller = _Teller(channel)
    plans: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(orders, plans), daemon=True).start()
    try:
        _serve(teller, plans)
    except KeyboardInterrupt:
        teller.send("interrupted")
        os._exit(130)
    except BrokenPipeError:
        _end_with_children()


if __name__ == "__main__":
    main()
