"""Progress of a build, told from several threads."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from tests.doubles.trt.binding import Bound


class IProgressMonitor(Bound):
    """Who is told how far a build is; applications derive from it and call its constructor."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002 - the real names
        """Comes before a phase."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_start"')

    def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002 - the real names
        """Comes after a step; False ends the build."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::step_complete"')

    def phase_finish(self, phase_name: str) -> None:  # noqa: ARG002 - the real names
        """Comes after a phase."""
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phase_finish"')


class _Interrupts:
    """Ctrl-C while the library runs: Python handles it in the next callback on the main thread, or when the library returns."""

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGINT)
        self._came = False
        self._ours = threading.current_thread() is threading.main_thread() and callable(self._handler)

    def hold(self) -> None:
        """Keeps it for later."""
        if self._ours:
            signal.signal(signal.SIGINT, self._keep)

    def release(self) -> None:
        """Handles what came, as the application wants it."""
        if self._ours and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handler)
            came, self._came = self._came, False
            if came and callable(self._handler):
                self._handler(signal.SIGINT, None)

    def _keep(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True


class Progress:
    """The library's side of a monitor.

    What a callback raises goes to the standard error, and raised in `step_complete` ends the build (PyProgressMonitor in
    python/src/infer/pyCore.cpp). Ctrl-C that comes between two callbacks counts as raised in the next.
    """

    _PARTS = ("Computing profile costs", "Tactic selection")
    _STEPS = 4

    def __init__(self, monitor: Any, step_seconds: float) -> None:
        self._monitor, self._seconds = monitor, step_seconds
        self._cancelled = threading.Event()
        self._failure: BaseException | None = None
        self._interrupts = _Interrupts()

    def run(self) -> bool:
        """Goes through a build, the whole on the caller's thread and its parts on two others; False: cancelled."""
        threads = [threading.Thread(target=self._part, args=(name,)) for name in self._PARTS]
        self._interrupts.hold()
        try:
            self._tell("phase_start", "Building Engine", None, self._STEPS)
            for thread in threads:
                thread.start()
            for step in range(self._STEPS):
                time.sleep(self._seconds)
                if not self._step("Building Engine", step):
                    break
            for thread in threads:
                thread.join()
            self._tell("phase_finish", "Building Engine")
        finally:
            self._interrupts.release()
        if self._failure is not None:
            raise self._failure
        return not self._cancelled.is_set()

    def _part(self, name: str) -> None:
        try:
            self._tell("phase_start", name, "Building Engine", self._STEPS)
            for step in range(self._STEPS):
                time.sleep(self._seconds)
                if not self._step(name, step):
                    break
            self._tell("phase_finish", name)
        except BaseException as failure:  # noqa: BLE001 - of a double: it must reach the test
            self._failure = failure

    def _step(self, phase: str, step: int) -> bool:
        if not self._cancelled.is_set() and self._tell("step_complete", phase, step) is not True and self._monitor is not None:
            self._cancelled.set()
        return not self._cancelled.is_set()

    def _tell(self, callback: str, *arguments: Any) -> Any:
        if self._monitor is None:
            return None
        on_caller = threading.current_thread() is threading.main_thread()
        try:
            self._interrupts.release()
            return getattr(self._monitor, callback)(*arguments)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - as the bindings do
            print(f"[ERROR] Exception caught in {callback}(): {error!r}", file=sys.stderr)
            return False
        finally:
            if on_caller:
                self._interrupts.hold()
