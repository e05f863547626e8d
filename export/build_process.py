"""One engine's build, where an interrupt reaches it: in a thread of this process, or in a process of its own.

`python -m leo_edge.export.build_process TASK RESULT PARENT` is that process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from leo_edge.export.build_progress import BuildProgress
from leo_edge.export.engine_task import BuiltPlan, EngineTask, read_built, read_task
from leo_edge.runtime.errors import BackendError, LeoEdgeError
from leo_edge.runtime.manifest import from_json
from leo_edge.runtime.whole_file import write_whole

_POLL_S = 0.05
_LESS = "give a smaller --workspace-mb or --context, fewer --profile-tiles or --opt-level 1, add swap, or end other programs"


@dataclass(frozen=True)
class Peak:
    """The most memory that a build took: of its process, and of the machine's, which a Jetson's GPU shares."""

    resident_bytes: int
    machine_bytes: int


@dataclass(frozen=True)
class _Result:
    """What a child hands back: a plan, or one line that says why not; neither: it was interrupted."""

    built: str | None
    error: str | None
    resident_bytes: int


def build_here(task: EngineTask, stop: threading.Event, stopped: Callable[[], bool] | None = None) -> BuiltPlan:
    """Builds in a thread: only the main thread hears an interrupt, and inside of TensorRT it would not.

    At an interrupt `stop` is set, which ends the build at its next step; a second one ends the process. `stopped` is asked
    beside `stop`. A plan that was finished all the same is returned.

    Raises:
        KeyboardInterrupt: it was stopped.
        BackendError: TensorRT refuses.
        OSError: the plan cannot be written.
    """
    from leo_edge.export.engine import build_plan

    progress = BuildProgress(task.graph, lambda: stop.is_set() or (stopped is not None and stopped()))
    outcome: list[BuiltPlan | BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            outcome.append(build_plan(task, progress))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            outcome.append(error)
        ended.set()

    _run(threading.Thread(target=work, name=f"build {task.graph}", daemon=True), ended, stop)
    progress.close()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def build_in_child(task: EngineTask, stop: threading.Event) -> tuple[BuiltPlan, Peak]:
    """Builds in a process of its own, whose memory goes back to the system whatever happens in it.

    At an interrupt `stop` is set and the process is told; a second one kills it.

    Raises:
        KeyboardInterrupt: it was stopped.
        BackendError: TensorRT refuses, or the process was killed, as the kernel does when memory runs out.
    """
    with tempfile.TemporaryDirectory(prefix="leo-edge-build-") as home:
        given, result = Path(home) / "task.json", Path(home) / "result.json"
        given.write_text(task.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", __name__, str(given), str(result), str(os.getpid())]
        watch = _MemoryWatch()
        # A session of its own: an interrupt from the keyboard comes to us, and we say when it is meant for the child.
        # It starts deaf to interrupts, and hears the one that came while it imported when it can deal with it.
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        try:
            _await(process, watch, stop)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        text = result.read_text(encoding="utf-8") if result.is_file() else None
    return _outcome(task, text, process.returncode, watch, interrupted=stop.is_set())


def _run(thread: threading.Thread, ended: threading.Event, stop: threading.Event) -> None:
    """Runs a thread until it says that it has ended, after an interrupt too: it writes files. A second one ends the process."""
    # The new thread inherits that it hears no interrupt, and this one hears it when the thread is there to be stopped.
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        _wait(ended)
    except KeyboardInterrupt:
        stop.set()
        previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
        _wait(ended)
        signal.signal(signal.SIGINT, previous)
    thread.join()


def _wait(ended: threading.Event) -> None:
    """Waits in a way that an interrupt ends. A thread whose `join` is interrupted counts as ended while it runs on."""
    while not ended.wait(_POLL_S):
        pass


def _await(process: subprocess.Popen[bytes], watch: _MemoryWatch, stop: threading.Event) -> None:
    """Waits for a process, after an interrupt too, which it is told of; a second interrupt goes on to the caller."""
    try:
        watch.follow(process)
    except KeyboardInterrupt:
        stop.set()
        process.send_signal(signal.SIGINT)
        watch.follow(process)


def _outcome(
    task: EngineTask, text: str | None, returncode: int, watch: _MemoryWatch, *, interrupted: bool
) -> tuple[BuiltPlan, Peak]:
    if text is not None:
        result = from_json(_Result, json.loads(text), "result")
        if result.built is not None:
            return read_built(result.built), Peak(result.resident_bytes, watch.machine_bytes)
        if result.error is not None:
            raise BackendError(result.error)
        raise KeyboardInterrupt
    if interrupted:
        raise KeyboardInterrupt
    took = f"it took {watch.resident_bytes / 1e9:.1f} GB, the machine's memory fell by {watch.machine_bytes / 1e9:.1f} GB"
    if returncode == -signal.SIGKILL:
        raise BackendError(f"{task.graph}: the system killed the build ({took}), as it does when memory runs out: {_LESS}")
    how = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
    raise BackendError(f"{task.graph}: the build's process ended with {how} ({took}): {_LESS}")


class _MemoryWatch:
    """Looks at the memory of a process and of the machine while it runs."""

    def __init__(self) -> None:
        self._before = self._least = _available_bytes()
        self.resident_bytes = 0

    def follow(self, process: subprocess.Popen[bytes]) -> None:
        """Looks until the process has ended."""
        while process.poll() is None:
            self._least = min(self._least, _available_bytes())
            self.resident_bytes = max(self.resident_bytes, _resident_bytes(process.pid))
            time.sleep(_POLL_S)

    @property
    def machine_bytes(self) -> int:
        """By how much the machine's available memory fell."""
        return self._before - self._least


def _available_bytes() -> int:
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _resident_bytes(pid: int | str) -> int:
    """Returns the most that a process had resident, 0 if it is gone. getrusage's ru_maxrss would count its parent's too."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM")


def _kilobytes(path: Path, field: str) -> int:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", path.read_text(encoding="ascii", errors="replace"), re.M)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0


def main(task: Path, result: Path, parent: int) -> None:
    """Builds as `task` says and writes what came of it to `result`. It stops when `parent`, which waits for it, is gone."""
    built, message = None, None
    try:
        # An interrupt in the middle of an import comes out of it as whatever the module makes of it.
        import leo_edge.export.engine  # noqa: F401

        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        built = build_here(read_task(task.read_text(encoding="utf-8")), threading.Event(), lambda: os.getppid() != parent)
    except LeoEdgeError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    except KeyboardInterrupt:
        pass
    outcome = _Result(None if built is None else built.to_json(), message, _resident_bytes("self"))
    write_whole(result, json.dumps(dataclasses.asdict(outcome)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
