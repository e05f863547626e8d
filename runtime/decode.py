"""The decoding loop: prefill, then one token after another, or several that were drafted, until something ends the answer.

Shape letters: S prompt tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from leo_edge.runtime.backend import Decoder, Logits, Tensor
from leo_edge.runtime.errors import ContextOverflowError
from leo_edge.runtime.sampling import Sampler
from leo_edge.runtime.spans import Clock, SpanRecorder
from leo_edge.runtime.speculation import Drafter
from leo_edge.runtime.tokenizer import TextStream


class Finish(str, Enum):
    """Why an answer ended."""

    STOP_TOKEN = "stop_token"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    DEADLINE = "deadline"
    CHOICE = "choice"


@dataclass(frozen=True)
class Decoded:
    """An answer's tokens and text. `token_ns[i]` is when token i was known, on the recorder's clock.

    `first_ns` is when the first token was known, a stop token included; `stop_id` the stop token that ended it.
    """

    token_ids: tuple[int, ...]
    text: str
    finish: Finish
    token_ns: tuple[int, ...]
    first_ns: int
    stop_id: int | None = None


@dataclass(frozen=True)
class DecodeLimits:
    """What ends an answer beside its stop strings. `deadline_ns` is absolute, on the recorder's clock."""

    stop_ids: frozenset[int]
    max_new_tokens: int
    deadline_ns: int | None = None


def decode(
    decoder: Decoder,
    logits: Logits,
    *,
    stream: TextStream,
    sampler: Sampler,
    limits: DecodeLimits,
    recorder: SpanRecorder,
    on_text: Callable[[str], None] = lambda _: None,
    drafter: Drafter | None = None,
) -> Decoded:
    """Appends tokens to a prompt whose last logits [V] are `logits`, until one of `Finish`. `on_text` gets the text.

    The deadline is checked before each step: one step may overrun it. A stop token is not part of the answer. With a `drafter`,
    whose sampler must take the likeliest token, a step checks what it drafts too: fewer steps, and the same tokens. What the
    cache holds behind the answer is then undefined. Span: decode.
    """
    token_ids: list[int] = []
    token_ns: list[int] = []
    finish: Finish | None = None
    stop_id: int | None = None
    first_ns = 0
    with recorder.measure("decode"):
        for token_id in _tokens(decoder, logits, sampler, limits.max_new_tokens, drafter):
            first_ns = first_ns or recorder.clock()
            if token_id in limits.stop_ids:
                finish, stop_id = Finish.STOP_TOKEN, token_id
                break
            token_ids.append(token_id)
            token_ns.append(recorder.clock())
            on_text(stream.push(token_id))
            finish = _finish(stream, len(token_ids), limits, recorder.clock)
            if finish is not None:
                break
        on_text(stream.finish())
    assert finish is not None
    return Decoded(tuple(token_ids), stream.text, finish, tuple(token_ns), first_ns, stop_id)


def prefill(
    decoder: Decoder,
    embeds: Tensor,
    routing: Mapping[str, Tensor],
    *,
    max_new_tokens: int,
    recorder: SpanRecorder,
    keep: int = 0,
    label: object = None,
) -> Logits:
    """Gives the decoder a prompt [S, D] and returns the logits [V] after it; see `Decoder.prefill`. Span: prefill.

    Raises:
        ContextOverflowError: S + max_new_tokens exceeds the context that the decoder was built for.
    """
    check_context(len(embeds), max_new_tokens, decoder.context_len)
    with recorder.measure("prefill"):
        return decoder.prefill(embeds, routing, keep=keep, label=label)


def _tokens(decoder: Decoder, logits: Logits, sampler: Sampler, max_new_tokens: int, drafter: Drafter | None) -> Iterator[int]:
    """Yields an answer's tokens without end; nothing is computed before the next one is asked for."""
    token_id, count = sampler.pick(logits), 1
    while True:
        yield token_id
        draft: tuple[int, ...] = ()
        if drafter is not None:
            drafter.note(token_id)
            # The last token that may come needs no draft: it is what the model says after the draft.
            draft = drafter.draft(max_new_tokens - count - 1)
        if drafter is None or not draft:
            token_id, count = sampler.pick(decoder.step(token_id)), count + 1
            continue
        length = decoder.length
        found = decoder.extend((token_id, *draft))
        chosen = [sampler.pick(row) for row in found]
        accepted = next((i for i, (mine, theirs) in enumerate(zip(chosen, draft, strict=False)) if mine != theirs), len(draft))
        drafter.judge(len(draft), accepted)
        decoder.rewind(length + 1 + accepted)
        for token_id in draft[:accepted]:
            yield token_id
            drafter.note(token_id)
        token_id, count = chosen[accepted], count + accepted + 1


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
