"""Questions that a vehicle asked itself, from its bag: does the same frame set still give the same answer?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leo_edge.replay.bag import Bag
from leo_edge.replay.queries import Queries, Query
from leo_edge.replay.scene_answers import SCENE_ANSWER, RecordedAnswer, keyframes, read_answers
from leo_edge.replay.source import PlannedSet
from leo_edge.runtime.decode import Finish
from leo_edge.runtime.errors import DatasetError

_NOT_ASKED = {
    "degraded": "recorded while something was given up (degrade_level above 0)",
    "deadline": "recorded as cut off at the deadline",
}


class RecordedQueries(Queries):
    """What was asked in a bag, with the recorded answers as truth. A query's id is its keyframe and its place in it.

    Answers that were given under pressure, with something given up or cut off at the deadline, cannot be expected again: they
    are not asked for, but counted.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Reads a bag's answers.

        Raises:
            DatasetError: no such bag, a broken one, or there is nothing in it to ask.
        """
        bag = Bag(path)
        answers = read_answers(bag)
        pressed = Counter(reason for answer in answers if (reason := _pressure(answer)) is not None)
        self._not_asked = {reason: pressed[reason] for reason in _NOT_ASKED}
        self._by_sample: dict[str, list[Query]] = {}
        for keyframe in keyframes(bag.name, answers):
            calm = [answer for answer in keyframe.answers if _pressure(answer) is None]
            if calm:
                self._by_sample[keyframe.token] = [_query(keyframe.token, i, answer) for i, answer in enumerate(calm)]
        if not self._by_sample:
            raise DatasetError(_nothing_to_ask(path, len(answers)))
        self._queries = {query.id: query for queries in self._by_sample.values() for query in queries}
        told = repr((self._queries, self._not_asked))
        self.name, self.fingerprint = name, hashlib.sha256(told.encode()).hexdigest()

    def about(self, planned: PlannedSet) -> Sequence[Query]:
        """Returns what was asked of a keyframe, in that order."""
        return self._by_sample.get(planned.sample or "", [])

    def samples(self) -> frozenset[str] | None:
        """Tokens of the keyframes, which are those of `BagSource`."""
        return frozenset(self._by_sample)

    def score(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """How many answers are equal to the recorded ones, character by character, by question and in all."""
        by_question = self._by_question(answers)
        total = {key: sum(one[key] for one in by_question.values()) for key in ("asked", "equal")}
        return {"recorded": {**total, "by_question": by_question, "not_asked": self._not_asked}}

    def table(self, answers: Mapping[str, str]) -> str:
        """One question a line."""
        scores = self.score(answers)["recorded"]
        rows = [*scores["by_question"].items(), ("all", scores)]
        lines = [f"{'answers equal to the recorded ones':<36}{'asked':>7}{'equal':>7}"]
        lines += [f"{kind:<36}{one['asked']:>7}{one['equal']:>7}" for kind, one in rows]
        lines += [f"not asked: {count} {_NOT_ASKED[reason]}" for reason, count in self._not_asked.items() if count]
        return "\n".join(lines)

    def _by_question(self, answers: Mapping[str, str]) -> dict[str, dict[str, int]]:
        asked: Counter[str] = Counter()
        equal: Counter[str] = Counter()
        for number, answer in answers.items():
            query = self._queries[number]
            asked[query.kind] += 1
            equal[query.kind] += answer == query.truth
        return {kind: {"asked": asked[kind], "equal": equal[kind]} for kind in sorted(asked)}


def _query(token: str, number: int, answer: RecordedAnswer) -> Query:
    return Query(f"{token}_{number}", answer.question_id, answer.question, answer.answer)


def _pressure(answer: RecordedAnswer) -> str | None:
    """Says under which pressure an answer was given; None: none."""
    if answer.degrade_level > 0:
        return "degraded"
    return "deadline" if answer.finish == Finish.DEADLINE.value else None


def _nothing_to_ask(path: Path, num_answers: int) -> str:
    if num_answers:
        return (
            f"all {num_answers} answers in bag {path} were cut off at the deadline or given while something was given up, "
            f"so none of them can be expected again: record some without that pressure"
        )
    return f"no answers in bag {path}, expected a topic of {SCENE_ANSWER}: record the node's answers too, or ask others"
