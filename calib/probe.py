"""Questions about frames with the float model's own answers, to hold a quantized model against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from leo_edge.calib.modality import divergence
from leo_edge.calib.observe import Forced, teacher_forced
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.pipeline import AskOptions, Pipeline
from leo_edge.runtime.tokens import VisualTokens

OPTIONS = AskOptions(32)


@dataclass(frozen=True, eq=False)
class Asked:
    """A question with its truth (None: unknown), the float model's answer, and its logits [n, V] before each token of it."""

    question: str
    truth: str | None
    answer: str
    sequence: Forced
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Probe:
    """A frame set, what the float model's experts make of it, and questions about it."""

    frames: FrameSet
    tokens: VisualTokens
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Effect:
    """What another model does to the probes' answers.

    kl: mean divergence of the next token's distribution, in nats. tokens_equal: share of greedy tokens that are the float
    model's. answers_equal: share of answers. drop: how many points of exact match are lost, None where no truth is known.
    """

    kl: float
    tokens_equal: float
    answers_equal: float
    drop: float | None


def make_probe(pipeline: Pipeline, frames: FrameSet, questions: Sequence[tuple[str, str | None]]) -> Probe:
    """Asks the float model; questions come with their truths."""
    tokens = pipeline.encode(frames)
    asked = []
    for question, truth in questions:
        sequence = teacher_forced(pipeline, tokens, question, OPTIONS)
        text = pipeline.tokenizer.decode(list(sequence.answer_ids))
        asked.append(Asked(question, truth, text, sequence, forced_logits(pipeline, sequence)))
    return Probe(frames, tokens, tuple(asked))


def forced_logits(pipeline: Pipeline, sequence: Forced) -> npt.NDArray[np.float32]:
    """Returns the logits [n, V] before each token of a sequence's answer, and after its last."""
    logits = [pipeline.decoder.prefill(sequence.embeds[: sequence.prompt_len], sequence.routing)]
    logits += [pipeline.decoder.step(token_id) for token_id in sequence.answer_ids]
    return np.stack(logits)


def effect_on(pipeline: Pipeline, probes: Iterable[Probe], *, encode: bool = True) -> Effect:
    """Asks another model the probes' questions; without `encode` about the float model's own visual tokens."""
    kls, equal, answers, before, after = list[float](), list[bool](), list[bool](), list[bool](), list[bool]()
    for probe in probes:
        tokens = pipeline.encode(probe.frames) if encode else probe.tokens
        for asked in probe.asked:
            got = forced_logits(pipeline, _about(pipeline, tokens, asked) if encode else asked.sequence)
            kls += [divergence(wanted, one) for wanted, one in zip(asked.logits.astype(float), got.astype(float), strict=True)]
            same = got.argmax(axis=1) == asked.logits.argmax(axis=1)
            equal += same.tolist()
            answers.append(bool(same.all()))
            if asked.truth is not None:
                text = asked.answer if same.all() else pipeline.ask(tokens, asked.question, OPTIONS).text
                before.append(asked.answer.strip() == asked.truth.strip())
                after.append(text.strip() == asked.truth.strip())
    drop = 100 * (float(np.mean(before)) - float(np.mean(after))) if before else None
    return Effect(float(np.mean(kls)), float(np.mean(equal)), float(np.mean(answers)), drop)


def _about(pipeline: Pipeline, tokens: VisualTokens, asked: Asked) -> Forced:
    """Returns the question's prompt over other visual tokens, with the float model's answer behind it."""
    prepared = pipeline.prepare(tokens, asked.question, OPTIONS.max_new_tokens)
    said = asked.sequence.embeds[asked.sequence.prompt_len :]
    return replace(asked.sequence, embeds=np.concatenate([prepared.embeds, said]), routing=prepared.routing)
