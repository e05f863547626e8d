"""runtime/decode.py: what ends an answer, when each token was known, and what the caller hears while it is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leo_edge.runtime.backend import Array, Decoder, FloatArray, Logits
from leo_edge.runtime.decode import Decoded, DecodeLimits, Finish, check_context, decode, prefill
from leo_edge.runtime.errors import BackendError, ContextOverflowError
from leo_edge.runtime.sampling import Sampler, Sampling
from leo_edge.runtime.spans import Span, SpanRecorder
from leo_edge.runtime.speculation import Drafter
from leo_edge.runtime.tokenizer import TextStream, Tokenizer
from tests.runtime.test_tokenizer import byte_level, saved

STOP_ID = 1  # test_tokenizer.END
PREFILL_NS, STEP_NS = 100, 10
EMBEDS = np.zeros((3, 4), np.float32)  # [S, D]


class Clock:
    """Stands still but for what the decoder takes."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        return self.now_ns


class ScriptedDecoder:
    """Makes the tokens of a script the likeliest, one after the other, and notes what it was asked."""

    def __init__(self, script: Sequence[int], clock: Clock, *, context_len: int = 64, fails_at: int | None = None) -> None:
        self.context_len, self._script, self._clock, self._fails_at = context_len, script, clock, fails_at
        self.prefills: list[tuple[FloatArray, Mapping[str, Array]]] = []
        self.steps: list[int] = []
        self.num_runs = 0
        self.label: object = None

    @property
    def length(self) -> int:
        return len(EMBEDS) + len(self.steps)

    def prefill(self, embeds: FloatArray, routing: Mapping[str, Array], *, keep: int = 0, label: object = None) -> Logits:
        assert keep < len(embeds)
        self.prefills.append((embeds, routing))
        self.label = label
        self._clock.now_ns += PREFILL_NS
        return self._logits()

    def extend(self, token_ids: Sequence[int]) -> Logits:
        self._clock.now_ns += STEP_NS
        self.num_runs += 1
        rows = []
        for token_id in token_ids:
            self.steps.append(token_id)
            rows.append(self._logits())
        return np.stack(rows)

    def rewind(self, length: int) -> None:
        del self.steps[length - len(EMBEDS) :]

    def step(self, token_id: int) -> Logits:
        self.num_runs += 1
        self.steps.append(token_id)
        self._clock.now_ns += STEP_NS
        if len(self.steps) == self._fails_at:
            raise BackendError("onnxruntime failed: out of memory")
        return self._logits()

    def _logits(self) -> Logits:
        logits = np.zeros(258, np.float32)
        logits[self._script[min(len(self.steps), len(self._script) - 1)]] = 1  # what is drafted may reach beyond
        return logits


class ScriptedAnswer:
    """One scripted answer: decoder, clock and everything that was heard."""

    def __init__(self, tokenizer: Tokenizer, text: str, **options: Any) -> None:
        self.tokenizer, self.clock = tokenizer, Clock()
        self.script = [*tokenizer.encode(text, special=False), STOP_ID]
        self.decoder = ScriptedDecoder(self.script, self.clock, **options)
        self.recorder = SpanRecorder(self.clock)
        self.pieces: list[str] = []

    def run(
        self,
        *,
        max_new_tokens: int = 32,
        stop_strings: tuple[str, ...] = (),
        stop_ids: frozenset[int] = frozenset({STOP_ID}),
        deadline_ns: int | None = None,
        routing: Mapping[str, Array] | None = None,
        drafter: Drafter | None = None,
    ) -> Decoded:
        decoder: Decoder = self.decoder
        logits = prefill(decoder, EMBEDS, routing or {}, max_new_tokens=max_new_tokens, recorder=self.recorder)
        return decode(
            decoder,
            logits,
            stream=TextStream(self.tokenizer, stop_strings),
            sampler=Sampler(Sampling()),
            limits=DecodeLimits(stop_ids, max_new_tokens, deadline_ns),
            recorder=self.recorder,
            on_text=self.pieces.append,
            drafter=drafter,
        )


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return saved(byte_level(), tmp_path)


class TestFinish:
    def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "Yes.")
        decoded = session.run()
        assert (decoded.text, decoded.finish) == ("Yes.", Finish.STOP_TOKEN)
        assert list(decoded.token_ids) == session.decoder.steps == session.script[:-1]

    def test_another_token_does_not(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "Yes.")
        session.script.append(STOP_ID + 1)
        decoded = session.run(stop_ids=frozenset({STOP_ID + 1}))
        assert decoded.token_ids == (*session.script[:-2], STOP_ID)
        assert decoded.text == "Yes."

    def test_a_stop_token_at_once_gives_an_empty_answer(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "")
        decoded = session.run()
        assert decoded == Decoded((), "", Finish.STOP_TOKEN, (), first_ns=decoded.first_ns, stop_id=STOP_ID)
        assert decoded.first_ns >= session.recorder.spans[0].end_ns

    def test_a_stop_string_ends_the_answer_before_itself(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "Yes.\n\nQuestion: why?")
        decoded = session.run(stop_strings=("\n\n",))
        assert (decoded.text, decoded.finish) == ("Yes.", Finish.STOP_STRING)
        assert len(decoded.token_ids) == len("Yes.\n\n")
        assert len(session.decoder.steps) == len("Yes.\n\n") - 1  # none behind it

    @pytest.mark.parametrize("length", [1, 2, 4])
    def test_length(self, tokenizer: Tokenizer, length: int) -> None:
        session = ScriptedAnswer(tokenizer, "Yes, ahead.")
        decoded = session.run(max_new_tokens=length)
        assert (decoded.text, decoded.finish) == ("Yes, ahead."[:length], Finish.LENGTH)
        assert len(session.decoder.steps) == length - 1  # the last token needs no step

    def test_the_exact_length_is_not_seen_to_stop(self, tokenizer: Tokenizer) -> None:
        assert ScriptedAnswer(tokenizer, "Yes.").run(max_new_tokens=4).finish == Finish.LENGTH
        assert ScriptedAnswer(tokenizer, "Yes.").run(max_new_tokens=5).finish == Finish.STOP_TOKEN

    def test_a_stop_string_wins_over_the_length(self, tokenizer: Tokenizer) -> None:
        assert ScriptedAnswer(tokenizer, "ab").run(max_new_tokens=2, stop_strings=("b",)).finish == Finish.STOP_STRING

    def test_finish_is_its_own_text(self) -> None:
        assert [finish.value for finish in Finish] == ["stop_token", "stop_string", "length", "deadline", "choice"]


class TestDeadline:
    @pytest.mark.parametrize(
        ("after_prefill_ns", "text"),
        [
            (-PREFILL_NS, "Y"),  # over before it began: the first token is known by then
            (0, "Y"),
            (1, "Ye"),
            (STEP_NS, "Ye"),
            (STEP_NS + 1, "Yes"),  # one step overruns it
        ],
    )
    def test_is_checked_before_each_step(self, tokenizer: Tokenizer, after_prefill_ns: int, text: str) -> None:
        session = ScriptedAnswer(tokenizer, "Yes, ahead.")
        decoded = session.run(deadline_ns=session.clock.now_ns + PREFILL_NS + after_prefill_ns)
        assert (decoded.text, decoded.finish) == (text, Finish.DEADLINE)

    def test_a_late_one_changes_nothing(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "Yes.")
        decoded = session.run(deadline_ns=session.clock.now_ns + PREFILL_NS + 10 * STEP_NS)
        assert (decoded.text, decoded.finish) == ("Yes.", Finish.STOP_TOKEN)

    def test_held_text_is_given_at_the_end(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "a#b")
        decoded = session.run(deadline_ns=session.clock.now_ns + PREFILL_NS + 1, stop_strings=("##",))
        assert (decoded.text, decoded.finish) == ("a#", Finish.DEADLINE)
        assert session.pieces[-1] == "#"


TEXT = "A car, a car and a truck are ahead; a car is behind."
DRAFTS = {
    "the same answer": TEXT,
    "another end": TEXT[:30] + "#" * 30,
    "another beginning": "##" + TEXT,
    "a shorter one": TEXT[:20],
    "a longer one": TEXT + " And more.",
    "nothing like it": "zzzz" * 20,
    "none": "",
}


class TestDrafts:
    @pytest.mark.parametrize("limits", [{}, {"max_new_tokens": 21}, {"stop_strings": ("truck",)}, {"stop_ids": frozenset({7})}])
    @pytest.mark.parametrize("previous", DRAFTS)
    def test_change_no_answer(self, tokenizer: Tokenizer, previous: str, limits: Any) -> None:
        limits = {"max_new_tokens": 60} | limits
        plain, drafted = ScriptedAnswer(tokenizer, TEXT), ScriptedAnswer(tokenizer, TEXT)
        drafter = Drafter([5, 6], [*tokenizer.encode(DRAFTS[previous], special=False), STOP_ID])
        wanted, found = plain.run(**limits), drafted.run(**limits, drafter=drafter)
        assert (found.token_ids, found.text, found.finish) == (wanted.token_ids, wanted.text, wanted.finish)
        assert "".join(drafted.pieces) == "".join(plain.pieces)
        assert drafted.decoder.num_runs <= plain.decoder.num_runs + 1
        assert 0 <= drafter.num_accepted <= drafter.num_drafted

    def test_a_repeated_answer_takes_few_steps(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, TEXT)
        drafter = Drafter([], [*tokenizer.encode(TEXT, special=False), STOP_ID])
        session.run(max_new_tokens=60, drafter=drafter)
        assert session.decoder.num_runs < len(TEXT) / 8
        assert drafter.num_accepted == drafter.num_drafted

    def test_one_that_is_always_wrong_is_soon_left_alone(self, tokenizer: Tokenizer) -> None:
        session, drafter = ScriptedAnswer(tokenizer, TEXT), Drafter([7] * 40, [7] * 40)
        plain = ScriptedAnswer(tokenizer, TEXT)
        assert session.run(max_new_tokens=60, drafter=drafter).token_ids == plain.run(max_new_tokens=60).token_ids
        assert drafter.num_drafted - drafter.num_accepted < len(TEXT) / 2

    def test_the_deadline_ends_it_as_it_ends_any(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, TEXT)
        drafter = Drafter([], tokenizer.encode(TEXT, special=False))
        found = session.run(max_new_tokens=60, deadline_ns=session.clock.now_ns + PREFILL_NS + STEP_NS, drafter=drafter)
        assert found.finish == Finish.DEADLINE
        assert TEXT.startswith(found.text)


class TestTimes:
    def test_tokens_are_stamped_when_they_are_known(self, tokenizer: Tokenizer) -> None:
        assert ScriptedAnswer(tokenizer, "Yes").run().token_ns == (1_100, 1_110, 1_120)

    def test_spans(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "Yes")
        session.run()
        assert session.recorder.spans == [Span("prefill", 1_000, 1_100), Span("decode", 1_100, 1_130)]
        assert session.recorder.spans[1].duration_ms == 30e-6

    def test_an_error_keeps_its_spans(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "Yes", fails_at=2)
        with pytest.raises(BackendError, match="out of memory"):
            session.run()
        assert session.recorder.spans == [Span("prefill", 1_000, 1_100), Span("decode", 1_100, 1_120)]


class TestCaller:
    def test_hears_the_text_as_it_appears(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "a🚗b")
        assert session.run().text == "".join(session.pieces) == "a🚗b"
        assert [piece for piece in session.pieces if piece] == ["a", "🚗", "b"]

    def test_hears_nothing_of_a_stop_string(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "a#b##c")
        session.run(stop_strings=("##",))
        assert [piece for piece in session.pieces if piece] == ["a", "#b"]

    def test_decoder_gets_prompt_and_routing_once(self, tokenizer: Tokenizer) -> None:
        session, routing = ScriptedAnswer(tokenizer, "Yes"), {"use_special": np.ones(1, np.float32)}
        session.run(routing=routing)
        ((embeds, given),) = session.decoder.prefills
        assert embeds is EMBEDS
        assert given is routing


class TestContext:
    def test_what_fits_exactly_runs(self, tokenizer: Tokenizer) -> None:
        assert ScriptedAnswer(tokenizer, "Yes.", context_len=len(EMBEDS) + 5).run(max_new_tokens=5).text == "Yes."

    def test_one_too_many_is_refused_before_anything_runs(self, tokenizer: Tokenizer) -> None:
        session = ScriptedAnswer(tokenizer, "Yes.", context_len=len(EMBEDS) + 4)
        with pytest.raises(ContextOverflowError, match=r"prompt 3 \+ max_new_tokens 5 = 8 tokens"):
            session.run(max_new_tokens=5)
        assert not session.decoder.prefills
        assert not session.recorder.spans

    def test_the_message_says_how_it_would_fit(self) -> None:
        expected = (
            r"^prompt 1510 \+ max_new_tokens 64 = 1574 tokens, but this bundle was exported for 1024: ask for fewer, "
            r"use fewer cameras or tiles, or export again with --context-len 1574$"
        )
        with pytest.raises(ContextOverflowError, match=expected):
            check_context(1510, 64, 1024)
        check_context(1510, 64, 1574)
