"""How the node is doing: what /diagnostics says, made from counts and rates; no rclpy."""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leo_edge.ros_node.rates import LatencyWindow, RateMeter
from leo_edge.ros_node.synchronizer import SyncCounts, Taken

OK, WARN, ERROR, STALE = 0, 1, 2, 3  # the values of diagnostic_msgs/DiagnosticStatus
_SILENT_S = 2.0  # a camera that has delivered nothing for so long is reported
_RECENT_S = 5.0  # an error stays in the diagnostics for so long


@dataclass(frozen=True)
class Status:
    """One line of the diagnostics."""

    name: str
    level: int
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass
class CameraHealth:
    """What came from one camera."""

    rate: RateMeter = field(default_factory=RateMeter)
    last_ns: int | None = None
    errors: int = 0
    last_error: str = ""
    last_error_ns: int = 0
    zero_stamps: int = 0
    qos: str = ""


class Health:
    """Collects what happens, from several threads, and says how it is going. Times are on the machine's monotonic clock."""

    def __init__(self, cameras: Iterable[str], now_ns: int) -> None:
        self._lock = threading.Lock()
        self._started_ns = now_ns
        self.cameras = {channel: CameraHealth() for channel in cameras}
        self.latency: dict[str, LatencyWindow] = defaultdict(LatencyWindow)
        self.counts: Counter[str] = Counter()  # answers, late, cut, asks, sets_done, degrade_changes
        self.sets_rate, self.answers_rate = RateMeter(), RateMeter()
        self.level = 0
        self._error, self._error_ns = "", 0
        self.steps: tuple[str, ...] = ()

    def frame(self, channel: str, now_ns: int, *, zero_stamp: bool) -> None:
        """Notes a frame's arrival."""
        with self._lock:
            camera = self.cameras[channel]
            camera.rate.tick(now_ns)
            camera.last_ns = now_ns
            camera.zero_stamps += zero_stamp

    def camera_error(self, channel: str, message: str, now_ns: int) -> bool:
        """Notes a frame that cannot be used; says whether this is news, which is worth a line in the log."""
        with self._lock:
            camera = self.cameras[channel]
            news = camera.last_error != message or now_ns - camera.last_error_ns > _RECENT_S * 1e9
            camera.errors += 1
            camera.last_error, camera.last_error_ns = message, now_ns
            return news

    def qos_mismatch(self, channel: str, policy: str) -> None:
        """Notes that a camera's driver offers what the node does not accept."""
        with self._lock:
            self.cameras[channel].qos = policy

    def error(self, message: str, now_ns: int) -> None:
        """Notes another trouble."""
        with self._lock:
            self._error, self._error_ns = message, now_ns

    def answer(self, latencies: Mapping[str, float], now_ns: int, *, late: bool, cut: bool) -> None:
        """Notes an answer: its latencies by stage, whether it was late, and whether the deadline cut it short."""
        with self._lock:
            self.counts["answers"] += 1
            self.counts["late"] += late
            self.counts["cut"] += cut
            self.answers_rate.tick(now_ns)
            for name, ms in latencies.items():
                self.latency[name].add(ms)

    def set_done(self, latencies: Mapping[str, float], now_ns: int) -> None:
        """Notes a set that was taken: its latencies by stage."""
        with self._lock:
            self.counts["sets_done"] += 1
            self.sets_rate.tick(now_ns)
            for name, ms in latencies.items():
                self.latency[name].add(ms)

    def degraded(self, level: int, steps: tuple[str, ...]) -> None:
        """Notes a step on the ladder."""
        with self._lock:
            self.counts["degrade_changes"] += 1
            self.level, self.steps = level, steps

    def statuses(self, now_ns: int, sync: SyncCounts, facts: Mapping[str, str]) -> list[Status]:
        """Returns a status per camera, one of the frame sets, one of the answers and one of the process, with `facts`."""
        with self._lock:
            cameras = [self._camera(name, camera, now_ns, sync) for name, camera in self.cameras.items()]
            return [*cameras, self._sets(now_ns, sync), self._answers(now_ns), self._process(now_ns, facts)]

    def _camera(self, name: str, camera: CameraHealth, now_ns: int, sync: SyncCounts) -> Status:
        hz = camera.rate.per_second(now_ns)
        values = {
            "rate_hz": f"{hz:.1f}",
            "frames": str(sum(n for (channel, _), n in sync.frames.items() if channel == name)),
            **{f"{taken.value}_frames": str(sync.frames[name, taken]) for taken in (Taken.DUPLICATE, Taken.LATE, Taken.JUMP)},
            "zero_stamps": str(camera.zero_stamps),
            "errors": str(camera.errors),
        }
        silent_s = (now_ns - (camera.last_ns or self._started_ns)) / 1e9
        level, message = OK, f"{hz:.1f} Hz"
        if camera.zero_stamps:
            level, message = WARN, "stamps are zero: the time of arrival is used in their place"
        if (apart_ms := sync.apart_ms.get(name)) is not None:
            level, message = ERROR, f"its stamps are {apart_ms:+.0f} ms from the other cameras': look at its clock"
        if silent_s > _SILENT_S:
            level, message = ERROR, f"no frame for {silent_s:.0f} s"
        if camera.last_error and now_ns - camera.last_error_ns < _RECENT_S * 1e9:
            level, message = ERROR, camera.last_error
        if camera.qos and camera.last_ns is None:
            level, message = ERROR, f"QoS mismatch ({camera.qos}): set the parameter reliability as the camera's driver has it"
        return Status(f"camera {name}", level, message, values)

    def _sets(self, now_ns: int, sync: SyncCounts) -> Status:
        hz = self.sets_rate.per_second(now_ns)
        values = {"answered_hz": f"{hz:.1f}", "ready": str(sync.sets), "answered": str(self.counts["sets_done"])}
        values |= {"dropped": str(sync.dropped), "partial": str(sync.partial), "too_few_cameras": str(sync.too_few)}
        values |= {"time_jumps": str(sync.jumps)}
        level, message = OK, f"{hz:.1f} sets answered a second"
        if self._error and now_ns - self._error_ns < _RECENT_S * 1e9:
            level, message = ERROR, self._error
        return Status("frame sets", level, message, values)

    def _answers(self, now_ns: int) -> Status:
        values = {"rate_hz": f"{self.answers_rate.per_second(now_ns):.2f}"}
        values |= {name: str(self.counts[name]) for name in ("answers", "late", "cut", "asks")}
        for name, window in self.latency.items():
            p50, p99 = window.percentile(50), window.percentile(99)
            if not math.isnan(p50):
                values |= {f"{name}_p50_ms": f"{p50:.1f}", f"{name}_p99_ms": f"{p99:.1f}"}
        values |= {"degrade_level": str(self.level), "degraded": " ".join(self.steps)}
        if self.level:
            return Status("answers", WARN, f"given up to be in time: {' '.join(self.steps)}", values)
        return Status("answers", OK, f"{self.answers_rate.per_second(now_ns):.1f} answers a second", values)

    def _process(self, now_ns: int, facts: Mapping[str, str]) -> Status:
        values = {"memory_mb": f"{resident_mb():.0f}", "uptime_s": f"{(now_ns - self._started_ns) / 1e9:.0f}", **facts}
        return Status("process", OK, facts["backend"], values)


def resident_mb() -> float:
    """Returns the memory that this process holds now, in MB of 1e6 bytes (Linux: /proc/self/status)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return math.nan
