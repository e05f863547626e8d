"""What is asked, and when: questions with a period each."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_QUESTIONS = {
    "action": "What should I do now, and for what reason?",
    "light": "What is the state of the traffic light?",
    "distance": "How far is the nearest vehicle ahead in my lane?",
}

_EARLY = 0.1  # of a period: a question whose set comes this little too soon need not wait for the next one


@dataclass(frozen=True)
class StandingQuestion:
    """A question that is asked again and again. `period_s` 0: of every set that is taken."""

    id: str
    text: str
    period_s: float = 0.0


class Schedule:
    """Says which questions are due, by the stamps of the sets: so it keeps its pace in recorded and slowed time too."""

    def __init__(self) -> None:
        self._asked_ns: dict[str, int] = {}

    def is_due(self, question: StandingQuestion, stamp_ns: int) -> bool:
        """Whether a question is due in a set. After a jump back in time every one is."""
        asked_ns = self._asked_ns.get(question.id)
        if asked_ns is None or stamp_ns < asked_ns:
            return True
        return stamp_ns - asked_ns >= (1 - _EARLY) * question.period_s * 1e9

    def note(self, question: StandingQuestion, stamp_ns: int) -> None:
        """Notes that a question was asked of a set."""
        self._asked_ns[question.id] = stamp_ns
