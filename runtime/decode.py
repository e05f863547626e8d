"""The decoding loop: prefill, then one token after another until something ends the answer.

Shape letters: S prompt tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from leo_edge.runtime.backend import Array, Decoder, FloatArray
from leo_edge.runtime.errors import ContextOverflowError
from leo_edge.runtime.sampling import Sampler
from leo_edge.runtime.spans import Clock, SpanRecorder
from leo_edge.runtime.tokenizer import TextStream


class Finish(str, Enum):
    """Why an answer ended."""

    STOP_TOKEN = "stop_token"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    DEADLINE = "deadline"


@dataclass(frozen=True)
class Decoded:
    """An answer's tokens and text. `token_ns[i]` is when token i was known, on the recorder's clock.

    `first_ns` is when the first token was known, a stop token included.
    """

    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    token_ns: tuple[int, ...]
    first_ns: int


@dataclass(frozen=True)
class DecodeLimits:
    """What ends an answer beside its stop strings. `deadline_ns` is absolute, on the recorder's clock."""

    stop_ids: frozenset[int]
    max_new_tokens: int
    deadline_ns: int | None = None


def decode(
    decoder: Decoder,
    embeds: FloatArray,
    routing: Mapping[str, Array],
    *,
    stream: TextStream,
    sampler: Sampler,
    limits: DecodeLimits,
    recorder: SpanRecorder,
    on_text: Callable[[str], None] = lambda _: None,
) -> Decoded:
    """Prefills with `embeds` [S, D], then appends tokens until one of `Finish`. `on_text` gets the text as it appears.

    The deadline is checked before each step: one step may overrun it. A stop token is not part of the answer. Spans: prefill,
    and decode for all that follows.

    Raises:
        ContextOverflowError: S + max_new_tokens exceeds the context that the decoder was built for.
    """
    check_context(len(embeds), limits.max_new_tokens, decoder.context_len)
    with recorder.measure("prefill"):
        logits = decoder.prefill(embeds, routing)
    token_ids: list[int] = []
    token_ns: list[int] = []
    finish: Finish | None = None
    with recorder.measure("decode"):
        token_id = sampler.pick(logits)
        first_ns = recorder.clock()
        while finish is None:
            if token_id in limits.stop_ids:
                finish = Finish.STOP_TOKEN
                break
            token_ids.append(token_id)
            token_ns.append(recorder.clock())
            on_text(stream.push(token_id))
            finish = _finish(stream, len(token_ids), limits, recorder.clock)
            if finish is None:
                token_id = sampler.pick(decoder.step(token_id))
        on_text(stream.finish())
    return Decoded(tuple(token_ids), stream.text, finish, tuple(token_ns), first_ns)


def _finish(stream: TextStream, num_tokens: int, limits: DecodeLimits, clock: Clock) -> Finish | None:
    """Returns why the answer ends here, or None if it goes on."""
    if stream.stopped:
        return Finish.STOP_STRING
    if num_tokens == limits.max_new_tokens:
        return Finish.LENGTH
    if limits.deadline_ns is not None and clock() >= limits.deadline_ns:
        return Finish.DEADLINE
    return None


def check_context(prompt_len: int, max_new_tokens: int, context_len: int) -> None:
    """Checks that a prompt and its answer fit.

    Raises:
        ContextOverflowError: they do not; the message says how they would.
    """
    needed = prompt_len + max_new_tokens
    if needed > context_len:
        raise ContextOverflowError(
            f"prompt {prompt_len} + max_new_tokens {max_new_tokens} = {needed} tokens, but this bundle was exported for "
            f"{context_len}: ask for fewer, use fewer cameras or tiles, or export again with --context-len {needed}"
        )
