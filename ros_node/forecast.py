"""What the work on the next frame set will be at each level of the ladder, and the stage model that says how long it takes.

How many tokens a prompt's text has, how many of them the cache held already and how long answers are is learned per question.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from leo_edge.ros_node.encoder import EncodedSet, SetShape
from leo_edge.ros_node.ladder import Economy
from leo_edge.ros_node.outlet import AnswerReport
from leo_edge.ros_node.questions import StandingQuestion
from leo_edge.runtime.answer import Answer
from leo_edge.runtime.decode import Finish
from leo_edge.runtime.stage_model import AskWork, EncodeWork, StageModel, Work

_ANSWERS_KEPT = 16
_UNFINISHED = (Finish.LENGTH, Finish.DEADLINE)


@dataclass
class _Asked:
    """What was learned of a question. `lengths` are None where an answer was cut short, and could be of any length."""

    beside_visual: int = 0
    visual_reused: bool = False
    lengths: deque[int | None] = field(default_factory=lambda: deque(maxlen=_ANSWERS_KEPT))

    def note(self, answer: Answer) -> None:
        """Learns from an answer. Of the prompt, the cache held its beginning already, perhaps with all visual tokens."""
        self.visual_reused = answer.num_reused_tokens >= answer.num_visual_tokens > 0
        visual = 0 if self.visual_reused else answer.num_visual_tokens
        self.beside_visual = answer.num_prompt_tokens - answer.num_reused_tokens - visual
        self.lengths.append(None if answer.finish in _UNFINISHED else len(answer.token_ids))

    def prompt_tokens(self, visual_tokens: int) -> int:
        """Returns how many tokens of a prompt are computed."""
        return max(1, self.beside_visual + (0 if self.visual_reused else visual_tokens))

    def answer_tokens(self, most: int) -> int:
        """Returns the longest that an answer is expected to be."""
        known = [length for length in self.lengths if length is not None]
        return most if len(known) < len(self.lengths) else min(most, max(known, default=most))


class Forecast:
    """Learns from what the worker did, and says what it will have to do."""

    def __init__(self) -> None:
        self.model = StageModel()
        self._asked: dict[str, _Asked] = {}

    def works(
        self,
        levels: Sequence[Economy],
        shapes: Sequence[SetShape | None],
        questions: Sequence[StandingQuestion],
        max_new_tokens: int,
    ) -> list[Work] | None:
        """Returns the work at each level, of which `shapes` say what is encoded; None where it cannot be told."""
        works = []
        for economy, shape in zip(levels, shapes, strict=True):
            asked = [self._asked.get(question.id) for question in questions]
            if shape is None or None in asked:
                return None
            most = min(max_new_tokens, economy.max_new_tokens or max_new_tokens)
            asks = tuple(
                AskWork(shape.cameras, one.prompt_tokens(shape.visual_tokens), one.answer_tokens(most)) for one in asked if one
            )
            works.append(Work(shape.encode, asks))
        return works

    def note(self, encoded: EncodedSet, reports: Sequence[AnswerReport], took_ms: float) -> None:
        """Learns from a set that is done, `took_ms` after its work began."""
        work = Work(encode_work(encoded), tuple(_ask_work(report.answer) for report in reports))
        predicted_ms = self.model.predict_ms(work)
        if predicted_ms is not None:
            self.model.observe_whole(predicted_ms, took_ms)
        self.model.observe_encode(work.encode, encoded.tokens.spans)
        for report, ask in zip(reports, work.asks, strict=True):
            self.model.observe_ask(ask, report.answer.spans)
            self._asked.setdefault(report.question_id, _Asked()).note(report.answer)


def encode_work(encoded: EncodedSet) -> EncodeWork:
    """Returns what was encoded for a set."""
    tiles = [camera.num_tiles for camera in encoded.tokens.cameras if camera.channel in encoded.images]
    return EncodeWork(len(tiles), sum(tiles))


def _ask_work(answer: Answer) -> AskWork:
    computed = max(1, answer.num_prompt_tokens - answer.num_reused_tokens)
    return AskWork(len(answer.camera_stamps_ns), computed, len(answer.token_ids))
