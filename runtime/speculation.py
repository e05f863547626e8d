"""Drafts of what an answer will say next, to be checked by the model several tokens at a time.

Drafts cost nothing to make: they are looked up in the last answer to the same question, which a standing question repeats more
often than not, then in the prompt and the answer so far (prompt lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding).
The model's own choice decides about every token, so an answer is the one that would be decoded one token at a time (speculative
decoding, arXiv 2211.17192, with a draft that is certain of itself).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

MOST_DRAFTED = 15  # one less than the rows of logits that an engine is built for
_FIRST_DRAFT = 4
_LONGEST_MATCH, _SHORTEST_MATCH = 3, 2
_LONGEST_PAUSE = 16


class Drafter:
    """Drafts one answer. Drafts grow while they are right, and pause, longer each time, while they are wrong."""

    def __init__(self, prompt_ids: Sequence[int], previous: Sequence[int] = ()) -> None:
        """`previous` are the tokens of the last answer to the same question, the one that ended it included."""
        self.num_drafted = self.num_accepted = 0
        self._previous = list(previous)
        self._context = list(prompt_ids)
        self._prompt_len = len(prompt_ids)
        self._length, self._pause, self._skip = _FIRST_DRAFT, 0, 0

    def note(self, token_id: int) -> None:
        """Appends a token to the answer."""
        self._context.append(token_id)
        self._skip = max(0, self._skip - 1)

    def draft(self, most: int) -> tuple[int, ...]:
        """Returns at most `most` tokens that may follow; none where nothing is known or drafts were wrong of late."""
        length = min(self._length, most, MOST_DRAFTED)
        if self._skip or length < 1:
            return ()
        answer = self._context[self._prompt_len :]
        if self._previous[: len(answer)] == answer:
            return tuple(self._previous[len(answer) : len(answer) + length])
        for sequence in (self._previous, self._context):
            for size in range(_LONGEST_MATCH, _SHORTEST_MATCH - 1, -1):
                found = _continuation(sequence, self._context[-size:], length)
                if found:
                    return found
        return ()

    def judge(self, drafted: int, accepted: int) -> None:
        """Takes note of how many of a draft's tokens the model chose too."""
        self.num_drafted += drafted
        self.num_accepted += accepted
        if accepted == drafted:
            self._length, self._pause = min(2 * self._length, MOST_DRAFTED), 0
        elif accepted == 0:
            self._pause = min(max(2, 2 * self._pause), _LONGEST_PAUSE)
            self._length, self._skip = _FIRST_DRAFT, self._pause


class AnswerMemory:
    """The last answers' tokens by question, those of the questions that were asked last."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._answers: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def recall(self, question: str) -> tuple[int, ...]:
        """Returns the last answer's tokens; none where there is no answer yet."""
        return self._answers.get(question, ())

    def keep(self, question: str, token_ids: Sequence[int]) -> None:
        """Takes an answer in place of the last one."""
        self._answers[question] = tuple(token_ids)
        self._answers.move_to_end(question)
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)


def _continuation(sequence: Sequence[int], ending: Sequence[int], length: int) -> tuple[int, ...]:
    """Returns what follows the last occurrence of `ending` that something follows."""
    size = len(ending)
    for start in range(len(sequence) - size - 1, -1, -1):
        if sequence[start] == ending[0] and list(sequence[start : start + size]) == list(ending):
            return tuple(sequence[start + size : start + size + length])
    return ()
