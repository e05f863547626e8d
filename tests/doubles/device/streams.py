"""Streams, events and captured graphs of the imaginary device.

Work is queued, and run only when something waits for it: a synchronisation, or an event that another stream waits for. So a
result that is read too early is not there yet, and a stream that does not wait for another finds old data.

Error numbers are cudaError_t's. Sources: CUDA runtime API, "Stream Management", "Event Management" and "Graph Management"; CUDA
programming guide, "Creating a Graph Using Stream Capture" and its "Prohibited and Unhandled Operations".
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.doubles.device.memory import IllegalAddressError
from tests.doubles.device.order import Access, Clock, Order, merge
from tests.doubles.errors import Race

INVALID_VALUE, INVALID_HANDLE, NOT_READY, ILLEGAL_ADDRESS, MISALIGNED = 1, 400, 600, 700, 716
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, CAPTURE_UNMATCHED, CAPTURE_UNJOINED = 900, 901, 903, 904
CAPTURE_ISOLATION, CAPTURE_IMPLICIT, CAPTURED_EVENT, CAPTURE_WRONG_THREAD = 905, 906, 907, 908
CAPTURE_MERGE = 902
GLOBAL, THREAD_LOCAL, RELAXED = 0, 1, 2
NONE, ACTIVE, INVALIDATED = 0, 1, 2

LEGACY, LEGACY_HANDLE, PER_THREAD_HANDLE = 0, 1, 2


class CudaError(Exception):
    """A call fails with an error number."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Work:
    """Something to do on the device, and the memory that it touches."""

    run: Callable[[], None]
    accesses: tuple[Access, ...] = ()


@dataclass(eq=False)
class Capture:
    """What is being recorded. `unjoined`: streams whose last work the first one has not yet waited for."""

    origin: Stream
    mode: int
    thread: int = field(default_factory=threading.get_ident)
    works: list[Work] = field(default_factory=list)
    members: list[Stream] = field(default_factory=list)
    unjoined: set[int] = field(default_factory=set)
    status: int = ACTIVE
    ended: bool = False


@dataclass(eq=False)
class Marker:
    """One recording of an event: where in a stream it is, and when the device came to it."""

    stream: Stream
    clock: Clock
    capture: Capture | None = None
    done: bool = False
    time_ns: int = 0


@dataclass(eq=False)
class Stream:
    """A queue of work. `blocking`: it and the legacy default stream wait for each other."""

    handle: int
    blocking: bool
    queue: deque[Work | Marker | tuple[Marker]] = field(default_factory=deque)
    clock: Clock = field(default_factory=dict)
    capture: Capture | None = None
    used: int = 0


@dataclass(eq=False)
class Event:
    """An event and its last recording."""

    handle: int
    timing: bool
    marker: Marker | None = None


@dataclass(eq=False)
class Graph:
    """Recorded work, or such work made ready to launch."""

    handle: int
    works: tuple[Work, ...]


class Scheduler:
    """All streams, events and graphs. `strikes` asks whether the next work reads an illegal address by the machine's faults."""

    def __init__(self, order: Order, strikes: Callable[[], bool]) -> None:
        self.order = order
        self.sticky = 0
        self.streams: dict[int, Stream] = {LEGACY: Stream(LEGACY, blocking=True)}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, Graph] = {}
        self.executables: dict[int, Graph] = {}
        self.captures: list[Capture] = []
        self._strikes = strikes
        self._destroyed: list[Stream] = []
        self._handles = itertools.count(0x5500_0000_1000, 0x100)
        self._ticks = itertools.count(1)

    def live(self) -> dict[str, int]:
        """Counts what was not destroyed."""
        return {
            "streams": len(self.streams) - 1,
            "events": len(self.events),
            "graphs": len(self.graphs),
            "graph executables": len(self.executables),
        }

    def new_handle(self) -> int:
        """Returns a number that no handle had before."""
        return next(self._handles)

    def stream(self, handle: int) -> Stream:
        """Returns a live stream.

        Raises:
            CudaError: there is none.
        """
        found = self.streams.get(LEGACY if handle in (LEGACY_HANDLE, PER_THREAD_HANDLE) else handle)
        if found is None:
            raise CudaError(INVALID_HANDLE)
        return found

    def create_stream(self, *, blocking: bool) -> Stream:
        """Makes a stream."""
        stream = Stream(self.new_handle(), blocking)
        self.streams[stream.handle] = stream
        return stream

    def destroy_stream(self, stream: Stream) -> None:
        """Takes a stream away; what is queued on it is still run (CUDA runtime API, cudaStreamDestroy)."""
        if stream.handle == LEGACY:
            raise CudaError(INVALID_HANDLE)
        if stream.capture is not None:
            self.invalidate(stream.capture)
        del self.streams[stream.handle]
        self._destroyed.append(stream)

    def submit(self, stream: Stream, run: Callable[[], None], accesses: Sequence[Access] = ()) -> Marker:
        """Queues work, or records it where the stream is being captured; returns the place behind it.

        Raises:
            CudaError: the capture does not allow it.
            Race: it touches memory that unordered work touches.
        """
        if stream.capture is not None:
            self._record(stream, Work(run, tuple(accesses)))
            return Marker(stream, dict(stream.clock), stream.capture)
        self._order_with_legacy(stream)
        race = self.order.work(stream.handle, stream.clock, accesses)
        if race is not None:
            raise Race(race)
        stream.used = next(self._ticks)
        stream.queue.append(Work(run, tuple(accesses)))
        return self.mark(stream)

    def mark(self, stream: Stream) -> Marker:
        """Queues a mark at the end of a stream."""
        merge(stream.clock, self.order.host)
        marker = Marker(stream, dict(stream.clock), stream.capture)
        if stream.capture is not None:
            self._check_capture(stream.capture)
            return marker
        stream.queue.append(marker)
        return marker

    def wait(self, stream: Stream, event: Event) -> None:
        """Makes a stream's later work wait for an event; one that was never recorded is done (cudaStreamWaitEvent)."""
        marker, capture = event.marker, stream.capture
        if marker is not None and marker.capture is not None:
            self._wait_captured(stream, marker.capture, marker)
        elif capture is not None:
            self._check_capture(capture)
            if marker is not None:
                self.invalidate(capture)
                raise CudaError(CAPTURE_ISOLATION)
        elif marker is not None:
            self._order_with_legacy(stream)
            self._wait(stream, marker)

    def synchronize(self, stream: Stream) -> None:
        """Runs a stream to its end."""
        if stream.capture is not None:
            self.invalidate(stream.capture)
            raise CudaError(CAPTURE_UNSUPPORTED)
        if stream.handle == LEGACY:
            self._order_with_legacy(stream)
        self._run(stream, None)
        self.order.synchronized(stream.clock)
        self.check()

    def reach(self, marker: Marker) -> None:
        """Runs the marker's stream up to it."""
        if marker.capture is not None:
            raise CudaError(CAPTURED_EVENT)
        if not marker.done:
            self._run(marker.stream, marker)
        self.order.synchronized(marker.clock)
        self.check()

    def synchronize_all(self) -> None:
        """Runs everything; the stream that was used last first, so that what needs an order must have asked for it."""
        for stream in sorted([*self.streams.values(), *self._destroyed], key=lambda one: -one.used):
            self._run(stream, None)
            self.order.synchronized(stream.clock)
        self._destroyed.clear()
        self.check()

    def poll(self, stream: Stream, marker: Marker | None) -> bool:
        """Asks whether a stream came to a mark, or its end; each asking lets one piece of work be done."""
        if marker is not None and marker.capture is not None:
            raise CudaError(CAPTURED_EVENT)
        done = marker.done if marker is not None else all(isinstance(item, Marker) for item in stream.queue)
        if done:
            self._run_marks(stream)
            self.order.synchronized(marker.clock if marker is not None else stream.clock)
        else:
            self._step(stream)
        self.check()
        return done

    def check(self) -> None:
        """Raises the error that holds for ever.

        Raises:
            CudaError: there is one.
        """
        if self.sticky:
            raise CudaError(self.sticky)

    def unsafe(self) -> None:
        """Comes before each call that a capture forbids, by its mode (cudaThreadExchangeStreamCaptureMode).

        Raises:
            CudaError: a capture is under way, which is lost by this.
        """
        for capture in self.captures:
            if capture.mode == GLOBAL or (capture.mode == THREAD_LOCAL and capture.thread == threading.get_ident()):
                self.invalidate(capture)
                raise CudaError(CAPTURE_UNSUPPORTED)

    def begin_capture(self, stream: Stream, mode: int) -> None:
        """Records the stream's work from now on."""
        if stream.handle == LEGACY:
            raise CudaError(CAPTURE_UNSUPPORTED)
        if stream.capture is not None:
            raise CudaError(INVALID_VALUE)
        stream.capture = Capture(stream, mode)
        stream.capture.members.append(stream)
        self.captures.append(stream.capture)

    def end_capture(self, stream: Stream) -> Graph:
        """Ends the recording and returns it.

        Raises:
            CudaError: it was lost, or a stream that joined it was not waited for.
        """
        capture = stream.capture
        if capture is None:
            raise CudaError(INVALID_VALUE)
        if capture.origin is not stream:
            self.invalidate(capture)
            raise CudaError(CAPTURE_UNMATCHED)
        if capture.mode != RELAXED and capture.thread != threading.get_ident():
            raise CudaError(CAPTURE_WRONG_THREAD)
        for member in capture.members:
            member.capture = None
        self.captures.remove(capture)
        capture.ended = True
        if capture.status == INVALIDATED:
            raise CudaError(CAPTURE_INVALIDATED)
        if capture.unjoined:
            raise CudaError(CAPTURE_UNJOINED)
        graph = Graph(self.new_handle(), tuple(capture.works))
        self.graphs[graph.handle] = graph
        return graph

    def launch(self, executable: Graph, stream: Stream) -> None:
        """Queues recorded work as one piece."""
        if stream.capture is not None:
            for work in executable.works:
                self._record(stream, work)
            return
        accesses = [access for work in executable.works for access in work.accesses]

        def run() -> None:
            for work in executable.works:
                work.run()

        self.submit(stream, run, accesses)

    def invalidate(self, capture: Capture) -> None:
        """Loses a capture."""
        capture.status = INVALIDATED

    def _check_capture(self, capture: Capture) -> None:
        if capture.status == INVALIDATED:
            raise CudaError(CAPTURE_INVALIDATED)

    def _record(self, stream: Stream, work: Work) -> None:
        capture = stream.capture
        assert capture is not None
        self._check_capture(capture)
        capture.works.append(work)
        if stream is not capture.origin:
            capture.unjoined.add(stream.handle)

    def _wait_captured(self, stream: Stream, capture: Capture, marker: Marker) -> None:
        if capture.ended:
            raise CudaError(CAPTURED_EVENT)
        self._check_capture(capture)
        if stream.capture is None:
            stream.capture = capture
            capture.members.append(stream)
            capture.unjoined.add(stream.handle)
        elif stream.capture is not capture:
            self.invalidate(capture)
            self.invalidate(stream.capture)
            raise CudaError(CAPTURE_MERGE)
        elif stream is capture.origin:
            capture.unjoined.discard(marker.stream.handle)

    def _order_with_legacy(self, stream: Stream) -> None:
        if not stream.blocking:
            return
        others = [self.streams[LEGACY]] if stream.handle != LEGACY else [s for s in self.streams.values() if s.blocking]
        for other in others:
            if other is stream:
                continue
            if other.capture is not None:
                self.invalidate(other.capture)
                raise CudaError(CAPTURE_IMPLICIT)
            marker = Marker(other, dict(other.clock), done=not other.queue)
            if other.queue:
                other.queue.append(marker)
            self._wait(stream, marker)

    def _wait(self, stream: Stream, marker: Marker) -> None:
        merge(stream.clock, marker.clock)
        if not marker.done:
            stream.queue.append((marker,))

    def _run(self, stream: Stream, until: Marker | None) -> None:
        while stream.queue and not (until is not None and until.done):
            self._step(stream)

    def _step(self, stream: Stream) -> None:
        item = stream.queue.popleft()
        if isinstance(item, Marker):
            item.done, item.time_ns = True, time.perf_counter_ns()
        elif isinstance(item, Work):
            self._execute([item])
        elif not item[0].done:
            self._run(item[0].stream, item[0])

    def _run_marks(self, stream: Stream) -> None:
        while stream.queue and isinstance(stream.queue[0], Marker):
            self._step(stream)

    def _execute(self, works: Iterable[Work]) -> None:
        for work in works:
            if self.sticky:
                return
            if self._strikes():
                self.sticky = ILLEGAL_ADDRESS
                return
            try:
                work.run()
            except IllegalAddressError:
                self.sticky = ILLEGAL_ADDRESS
            except CudaError as error:
                self.sticky = error.code
