"""The one worker of the node: takes the newest frame set, encodes what is new in it, answers what is due.

Cameras' callbacks call `offer` and return at once. Answers, pieces of them and troubles go to an `Outlet`, from the worker's
own thread. Settings may be replaced at any time; an answer that is being written keeps those that it began with.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from leo_edge.ros_node.encoder import EncodedSet, Encoder
from leo_edge.ros_node.forecast import Forecast
from leo_edge.ros_node.inputs import CameraInfo, Picture
from leo_edge.ros_node.ladder import Economy, Ladder
from leo_edge.ros_node.outlet import AnswerReport, Outlet, SetReport
from leo_edge.ros_node.questions import Schedule, StandingQuestion
from leo_edge.ros_node.synchronizer import Arrival, ReadySet, SyncCounts, Synchronizer, SyncRules, Taken
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.pipeline import AskOptions, Pipeline, left_ms

ASK_ID = "ask"
_MOST_REQUESTS = 8
_IDLE_S = 0.25  # how often it is looked whether somebody listens


@dataclass(frozen=True)
class Settings:
    """What may change while the node runs. `deadline_ms` counts from when a frame set is there; None: none."""

    questions: tuple[StandingQuestion, ...]
    deadline_ms: float | None = None
    max_new_tokens: int = 32


@dataclass(frozen=True, eq=False)
class AskRequest:
    """A question from the service. `deadline_ms` counts from `asked_ns`; `max_new_tokens` None: the node's own."""

    question: str
    max_new_tokens: int | None
    deadline_ms: float | None
    asked_ns: int
    future: Future[AnswerReport]


class _StoppedError(Exception):
    """Raised inside the pipeline when the worker is told to stop."""


class Worker:
    """Owns the pipeline while it runs; `stop` ends within a step of the model."""

    def __init__(
        self,
        pipeline: Pipeline,
        rules: SyncRules,
        ladder: Ladder,
        settings: Settings,
        outlet: Outlet,
        *,
        clock: Callable[[], int] = time.perf_counter_ns,
        foresee: bool = True,
    ) -> None:
        """`foresee` chooses the ladder's level before a set's work starts; else missed deadlines alone decide."""
        self.settings = settings
        self._forecast, self._foresees = Forecast(), foresee
        self._pipeline, self._ladder, self._outlet, self._clock = pipeline, ladder, outlet, clock
        self._encoder = Encoder(pipeline, self._check_stopped, outlet.on_camera_error, clock)
        self._sync: Synchronizer[Picture] = Synchronizer(rules, lambda stamp_ns: self._wanted and bool(self._due(stamp_ns)))
        self._wanted = False
        self._schedule = Schedule()
        self._requests: deque[AskRequest] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._last: EncodedSet | None = None
        self._thread = threading.Thread(target=self._run, name="leo_edge worker", daemon=True)

    @property
    def rules(self) -> SyncRules:
        """The rules by which frames are gathered."""
        return self._sync.rules

    @rules.setter
    def rules(self, rules: SyncRules) -> None:
        with self._changed:
            self._sync.rules = rules

    @property
    def counts(self) -> SyncCounts:
        """What became of frames and sets; a live object."""
        return self._sync.counts

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ends the work, an answer that is being written included; says whether it ended in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def offer(self, channel: str, stamp_ns: int, picture: Picture) -> Taken:
        """Takes a camera's frame and returns at once."""
        with self._changed:
            taken = self._sync.add(Arrival(channel, stamp_ns, self._clock(), picture))
            self._changed.notify()
            return taken

    def set_info(self, channel: str, info: CameraInfo) -> None:
        """Takes a camera's size and intrinsic."""
        self._encoder.infos[channel] = info

    def info(self, channel: str) -> CameraInfo | None:
        """Returns what is known of a camera."""
        return self._encoder.infos.get(channel)

    def ask(self, question: str, max_new_tokens: int | None, deadline_ms: float | None) -> Future[AnswerReport]:
        """Asks about the newest frame set, before whatever else is due.

        The future's exception is a LeoEdgeError where there is no answer.
        """
        future: Future[AnswerReport] = Future()
        with self._changed:
            if self._stopping or len(self._requests) >= _MOST_REQUESTS:
                reason = "the node is being deactivated" if self._stopping else f"{_MOST_REQUESTS} questions wait already"
                future.set_exception(LeoEdgeError(f"not asked: {reason}; ask again later"))
            else:
                self._requests.append(AskRequest(question, max_new_tokens, deadline_ms, self._clock(), future))
                self._changed.notify()
        return future

    def _run(self) -> None:
        try:
            while True:
                work = self._next()
                if work is None:
                    break
                self._do(work)
        except _StoppedError:
            pass
        finally:
            self._refuse_requests()

    def _next(self) -> ReadySet[Picture] | AskRequest | None:
        """Waits for what is to be done next; None: to stop."""
        while True:
            self._wanted = self._outlet.wanted()
            with self._changed:
                if self._stopping:
                    return None
                now_ns = self._clock()
                self._sync.settle(now_ns)
                if self._requests:
                    return self._requests.popleft()
                ready = self._sync.peek()
                if ready is not None and self._wanted and self._due(ready.stamp_ns):
                    return self._sync.take()
                due_ns = self._sync.due_ns()
                self._changed.wait(_IDLE_S if due_ns is None else min(_IDLE_S, max(0.0, (due_ns - now_ns) / 1e9) + 1e-4))

    def _due(self, stamp_ns: int) -> list[StandingQuestion]:
        return [question for question in self.settings.questions if self._schedule.is_due(question, stamp_ns)]

    def _do(self, work: ReadySet[Picture] | AskRequest) -> None:
        """Does one piece of work. What a user could mend is told and survived; so is what an engine refuses."""
        try:
            if isinstance(work, AskRequest):
                self._serve(work)
            else:
                self._answer_set(work)
        except LeoEdgeError as error:
            self._outlet.on_error(str(error))
        except _StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one set did, the next one is answered
            self._outlet.on_error(f"unexpected {type(error).__name__}: {error}; the next frame set is tried")

    def _answer_set(self, ready: ReadySet[Picture]) -> None:
        taken_ns = self._clock()
        self._choose_level(ready, taken_ns)
        encoded = self._encode(ready, taken_ns)
        if encoded is None:
            return
        reports, served = [], 0
        for question in self._due(ready.stamp_ns):
            self._schedule.note(question, ready.stamp_ns)
            settings = self.settings
            try:
                reports.append(self._answer(encoded, question, ready.ready_ns, settings.deadline_ms, settings.max_new_tokens))
            except LeoEdgeError as error:
                self._outlet.on_error(f"question {question.id}: {error}")
            served += self._serve_requests()
        done_ns = self._clock()
        if not served:  # the time would not be that of the set alone
            self._forecast.note(encoded, reports, (done_ns - taken_ns) / 1e6)
        self._outlet.on_set(SetReport(encoded, taken_ns, done_ns))

    def _choose_level(self, ready: ReadySet[Picture], taken_ns: int) -> None:
        """Goes to the level of the ladder at which all questions that are due are expected to be answered in time."""
        settings, levels = self.settings, self._ladder.levels
        if settings.deadline_ms is None or not self._foresees:
            return
        shapes = [self._encoder.shape(ready, self._sync.rules, economy) for economy in levels]
        works = self._forecast.works(levels, shapes, self._due(ready.stamp_ns), settings.max_new_tokens)
        left = left_ms(settings.deadline_ms, taken_ns - ready.ready_ns)
        if (reason := self._ladder.choose(self._forecast.model, works, left)) is not None:
            self._outlet.on_degrade(self._ladder.level, self._ladder.in_force, reason)

    def _encode(self, ready: ReadySet[Picture], taken_ns: int) -> EncodedSet | None:
        """Encodes a set; None where no camera's image could be read."""
        encoded = self._encoder.encode(ready, self._sync.rules, self._ladder.economy, taken_ns)
        if encoded is not None:
            self._last = encoded
        return encoded

    def _answer(
        self,
        encoded: EncodedSet,
        question: StandingQuestion,
        since_ns: int,
        deadline_ms: float | None,
        max_new_tokens: int,
    ) -> AnswerReport:
        """Answers a question about a set; the deadline counts from `since_ns`."""
        economy, level, steps = self._ladder.economy, self._ladder.level, self._ladder.in_force
        options = self._options(economy, since_ns, deadline_ms, max_new_tokens)
        pieces = _Pieces(self._outlet, encoded, question.id, self._check_stopped)
        answer = self._pipeline.ask(encoded.tokens, question.text, options, on_text=pieces.add)
        since_ms = (self._clock() - since_ns) / 1e6
        met = deadline_ms is None or since_ms <= deadline_ms
        report = AnswerReport(question.id, answer, encoded, since_ms, deadline_ms, met, level, steps)
        pieces.finish()
        self._outlet.on_answer(report)
        if question.id != ASK_ID and (reason := self._ladder.record(since_ms, deadline_ms)) is not None:
            self._outlet.on_degrade(self._ladder.level, self._ladder.in_force, reason)
        return report

    def _options(self, economy: Economy, since_ns: int, deadline_ms: float | None, max_new_tokens: int) -> AskOptions:
        left = left_ms(deadline_ms, self._clock() - since_ns)
        longest = max_new_tokens if economy.max_new_tokens is None else min(max_new_tokens, economy.max_new_tokens)
        return AskOptions(longest, left, max_visual_tokens=self._encoder.most_visual_tokens(economy))

    def _serve_requests(self) -> int:
        """Answers what was asked meanwhile, and returns how many that were."""
        served = 0
        while True:
            with self._changed:
                if not self._requests:
                    return served
                request = self._requests.popleft()
            self._serve(request)
            served += 1

    def _serve(self, request: AskRequest) -> None:
        """Answers a request about the newest set, encoded if that has not been done yet."""
        with self._changed:
            ready = self._sync.take()
        try:
            if ready is not None:
                self._encode(ready, self._clock())
            if self._last is None:
                raise LeoEdgeError("there is no frame set yet: look at /diagnostics, which cameras deliver")
            question = StandingQuestion(ASK_ID, request.question)
            longest = request.max_new_tokens or self.settings.max_new_tokens
            report = self._answer(self._last, question, request.asked_ns, request.deadline_ms, longest)
        except LeoEdgeError as error:
            request.future.set_exception(error)
        except _StoppedError:
            request.future.set_exception(LeoEdgeError("the node was deactivated during the answer: activate it, ask again"))
            raise
        else:
            request.future.set_result(report)

    def _refuse_requests(self) -> None:
        with self._changed:
            while self._requests:
                self._requests.popleft().future.set_exception(LeoEdgeError("the node was deactivated: activate it, ask again"))

    def _check_stopped(self) -> None:
        if self._stopping:
            raise _StoppedError


class _Pieces:
    """Hands an answer on, piece by piece."""

    def __init__(self, outlet: Outlet, encoded: EncodedSet, question_id: str, check: Callable[[], None]) -> None:
        self._outlet, self._encoded, self._question_id, self._check = outlet, encoded, question_id, check
        self._index = 0

    def add(self, text: str) -> None:
        self._check()
        if text:
            self._send(text, last=False)

    def finish(self) -> None:
        self._send("", last=True)

    def _send(self, text: str, *, last: bool) -> None:
        self._outlet.on_piece(self._encoded.stamp_ns, self._question_id, self._index, text, last=last)
        self._index += 1
