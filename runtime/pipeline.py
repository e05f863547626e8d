"""From frames to an answer: encode once, ask many times.

`encode` runs the vision experts and does not depend on the question; `ask` fuses, prompts and decodes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.answer import Answer
from leo_edge.runtime.backend import Decoder, Engine, Logits, Session, Tensor
from leo_edge.runtime.bundle import Bundle, open_bundle
from leo_edge.runtime.choices import ChoiceScore, choose
from leo_edge.runtime.decode import Decoded, DecodeLimits, Finish, check_context, decode, prefill
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.engine_choice import open_engine
from leo_edge.runtime.errors import BundleError
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.prefix import CachedPrompt
from leo_edge.runtime.prompt import Prompt, build_prompt
from leo_edge.runtime.sampling import Sampler, Sampling
from leo_edge.runtime.sizes import check_sizes
from leo_edge.runtime.spans import SpanRecorder
from leo_edge.runtime.speculation import AnswerMemory, Drafter
from leo_edge.runtime.tiles import TileBatch
from leo_edge.runtime.tokenizer import TextStream, Tokenizer
from leo_edge.runtime.tokens import NO_IMAGES, CameraTokens, VisualTokens

# A question that is asked when its deadline is over: decoding stops at once, and says so.
_OVER_MS = 1e-6


def left_ms(deadline_ms: float | None, passed_ns: int) -> float | None:
    """Returns what is left of a deadline as `AskOptions` take it, a moment where it is over; None: there is no deadline."""
    return None if deadline_ms is None else max(_OVER_MS, deadline_ms - passed_ns / 1e6)


@dataclass(frozen=True)
class AskOptions:
    """How to answer. `deadline_ms` counts from the call; `stop_strings` are added to the bundle's own.

    `max_visual_tokens` is the most of a camera's visual tokens that the language model is shown, evenly spread; None: all.

    With `choices`, the likeliest of these texts is the answer (see `leo_edge.runtime.choices`); nothing is drawn then, and stop
    strings mean nothing.
    """

    max_new_tokens: int = 32
    deadline_ms: float | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop_strings: tuple[str, ...] = ()
    max_visual_tokens: int | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.choices)) != len(self.choices) or "" in self.choices:
            raise ValueError(f"choices must be different texts, none of them empty, got {', '.join(map(repr, self.choices))}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if "" in self.stop_strings:
            raise ValueError("a stop string must not be empty: it would end every answer")
        if self.deadline_ms is not None and not 0 < self.deadline_ms < math.inf:
            raise ValueError(f"deadline_ms must be above 0, got {self.deadline_ms}")
        if self.max_visual_tokens is not None and self.max_visual_tokens < 1:
            raise ValueError(f"max_visual_tokens must be at least 1, got {self.max_visual_tokens}")


@dataclass(frozen=True)
class Savings:
    """Work that is saved where an earlier answer did it. No answer changes by it; each can be left out to see what it gains.

    prefix: the part of a prompt that the cache holds already. speculation: several tokens a step, where they were guessed.
    """

    prefix: bool = True
    speculation: bool = True


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """A prompt, its embeddings [S, D] with the visual ones in their places, and the language model's routing inputs.

    `label` describes it to the question after it; None where the question made the visual embeddings or the routing.
    """

    prompt: Prompt
    embeds: Tensor
    routing: dict[str, Tensor]
    label: CachedPrompt | None


@dataclass(frozen=True)
class Pipeline:
    """A bundle that is loaded and ready. Made by `open_pipeline`. `sessions` and `decoder` are the engine's."""

    bundle: Bundle
    engine: Engine
    tokenizer: Tokenizer
    table: EmbeddingTable
    sessions: Mapping[str, Session]
    decoder: Decoder
    savings: Savings = Savings()
    memory: AnswerMemory = field(default_factory=AnswerMemory)

    @property
    def backend(self) -> str:
        """What runs: engine, version, device, and what it had to do without."""
        return self.engine.description

    def encode(
        self, frame_set: FrameSet, *, max_tiles: int | None = None, on_tile: Callable[[], None] = lambda: None
    ) -> VisualTokens:
        """Cuts the frames into tiles and runs the vision experts, as many tiles at a time as the engine takes.

        `max_tiles` cuts a camera's image into fewer tiles than the bundle would. `on_tile` is called before each run of an
        expert; what it raises ends the work.
        """
        recorder = SpanRecorder()
        with recorder.measure("tiles"):
            batch = self.engine.cut(frame_set, self.bundle.manifest.tiling.at_most(max_tiles))
        tokens: dict[str, Tensor] = {}
        for expert in self.bundle.manifest.experts:
            name = f"vision.{expert.name}"
            count = self.engine.tiles_per_run(name)
            with recorder.measure(name):
                runs = []
                for start in range(0, len(batch.tiles), count):
                    on_tile()
                    runs.append(self.sessions[name].run({"tiles": batch.tiles[start : start + count]})["tokens"])
                tokens[expert.name] = self.engine.concatenate(runs)
        cameras = list(_split_cameras(batch, tokens))
        if not self.bundle.manifest.fuse.uses_text:
            with recorder.measure("fuse"):
                cameras = [replace(camera, fused=self._fuse([camera], None)[0]) for camera in cameras]
        return VisualTokens(tuple(cameras), frame_set.missing, frame_set.stamp_ns, tuple(recorder.spans))

    def ask(
        self,
        tokens: VisualTokens | None,
        question: str,
        options: AskOptions | None = None,
        *,
        now_ns: int | None = None,
        on_text: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        """Answers a question about encoded frames, or about none (None). Ages are counted from `now_ns`, on the frames' clock.

        Raises:
            PromptError: the question is empty or does not fit the cameras.
            ContextOverflowError: prompt and answer do not fit the context.
        """
        tokens, options = tokens or NO_IMAGES, options or AskOptions()
        recorder = SpanRecorder()
        asked_ns = recorder.clock()
        deadline_ns = None if options.deadline_ms is None else asked_ns + round(options.deadline_ms * 1e6)
        prepared = self.prepare(tokens, question, options.max_new_tokens, recorder, max_visual_tokens=options.max_visual_tokens)
        keep = self._reusable(prepared)
        logits = prefill(
            self.decoder,
            prepared.embeds,
            prepared.routing,
            max_new_tokens=options.max_new_tokens,
            recorder=recorder,
            keep=keep,
            label=prepared.label,
        )
        limits = DecodeLimits(frozenset(self.bundle.manifest.prompt.stop_ids), options.max_new_tokens, deadline_ns)
        drafter = self._drafter(prepared.prompt, question, options)
        if options.choices:
            decoded, scores = self._choose(logits, options.choices, limits, recorder, on_text)
        else:
            decoded, scores = self._decode(logits, options, limits, recorder, on_text, drafter), ()
        if drafter is not None:
            stop = [decoded.stop_id] if decoded.stop_id is not None else []
            self.memory.keep(question, [*decoded.token_ids, *stop])
        met = None if deadline_ns is None else recorder.clock() <= deadline_ns
        answer = self._answer(question, tokens, prepared.prompt, decoded, recorder, asked_ns, deadline_met=met, now_ns=now_ns)
        return replace(
            answer,
            num_reused_tokens=keep,
            num_drafted_tokens=0 if drafter is None else drafter.num_drafted,
            num_accepted_tokens=0 if drafter is None else drafter.num_accepted,
            choices=scores,
        )

    def _reusable(self, prepared: PreparedPrompt) -> int:
        """Returns how many of a prompt's tokens the cache holds already."""
        cached = self.decoder.label
        if not self.savings.prefix or prepared.label is None or not isinstance(cached, CachedPrompt):
            return 0
        return cached.common(prepared.label)

    def _drafter(self, prompt: Prompt, question: str, options: AskOptions) -> Drafter | None:
        """Returns what drafts an answer; drawn ones and chosen ones are not drafted."""
        if not self.savings.speculation or options.sampling.temperature > 0 or options.choices:
            return None
        return Drafter(prompt.token_ids, self.memory.recall(question))

    def _decode(
        self,
        logits: Logits,
        options: AskOptions,
        limits: DecodeLimits,
        recorder: SpanRecorder,
        on_text: Callable[[str], None],
        drafter: Drafter | None,
    ) -> Decoded:
        return decode(
            self.decoder,
            logits,
            stream=TextStream(self.tokenizer, self.bundle.manifest.prompt.stop_strings + options.stop_strings),
            sampler=Sampler(options.sampling),
            limits=limits,
            recorder=recorder,
            on_text=on_text,
            drafter=drafter,
        )

    def _choose(
        self,
        logits: Logits,
        choices: tuple[str, ...],
        limits: DecodeLimits,
        recorder: SpanRecorder,
        on_text: Callable[[str], None],
    ) -> tuple[Decoded, tuple[ChoiceScore, ...]]:
        """Returns the likeliest of the choices. Span: choose."""
        given = [(text, tuple(self.tokenizer.encode(text, special=False))) for text in choices]
        check_context(self.decoder.length, max(len(ids) for _, ids in given), self.decoder.context_len)
        late = limits.deadline_ns
        with recorder.measure("choose"):
            chosen = choose(
                self.decoder, logits, given, limits.stop_ids, is_late=lambda: late is not None and recorder.clock() >= late
            )
        text = choices[chosen.index]
        on_text(text)
        finish = Finish.CHOICE if chosen.in_time else Finish.DEADLINE
        now_ns = recorder.clock()
        times = (now_ns,) * len(chosen.token_ids)
        return Decoded(chosen.token_ids, text, finish, times, first_ns=now_ns), chosen.scores

    def prepare(
        self,
        tokens: VisualTokens | None,
        question: str,
        max_new_tokens: int,
        recorder: SpanRecorder | None = None,
        *,
        max_visual_tokens: int | None = None,
    ) -> PreparedPrompt:
        """Returns all that the language model is given for a question.

        Raises:
            PromptError: the question is empty or does not fit the cameras.
            ContextOverflowError: prompt and answer do not fit the context.
        """
        tokens, recorder = tokens or NO_IMAGES, recorder or SpanRecorder()
        with recorder.measure("prompt"):
            most = max_visual_tokens or math.inf
            images = [(camera.channel, int(min(most, self._num_visual_tokens(camera)))) for camera in tokens.cameras]
            prompt = build_prompt(question, images, self.bundle.manifest.prompt, self.tokenizer)
            check_context(len(prompt.token_ids), max_new_tokens, self.decoder.context_len)
            embeds = self.engine.upload(self.table.lookup(np.array(prompt.token_ids)))
        routing = self._place_visual_embeds(embeds, prompt, tokens, recorder)
        visual = [camera.fused for camera in tokens.cameras if camera.fused is not None]
        is_made_for_question = len(visual) < len(tokens.cameras) or (self.bundle.manifest.decoder.routed and bool(visual))
        return PreparedPrompt(prompt, embeds, routing, None if is_made_for_question else CachedPrompt.of(prompt, visual))

    def _answer(
        self,
        question: str,
        tokens: VisualTokens,
        prompt: Prompt,
        decoded: Decoded,
        recorder: SpanRecorder,
        asked_ns: int,
        *,
        deadline_met: bool | None,
        now_ns: int | None,
    ) -> Answer:
        stamps = {camera.channel: camera.stamp_ns for camera in tokens.cameras}
        moment_ns = tokens.stamp_ns if now_ns is None else now_ns
        times = decoded.token_ns
        return Answer(
            question=question,
            text=decoded.text,
            token_ids=decoded.token_ids,
            finish=decoded.finish,
            stamp_ns=tokens.stamp_ns,
            camera_stamps_ns=stamps,
            age_ms={channel: (moment_ns - stamp_ns) / 1e6 for channel, stamp_ns in stamps.items()},
            missing=tokens.missing,
            num_prompt_tokens=len(prompt.token_ids),
            num_visual_tokens=sum(length for _, length in prompt.image_spans),
            deadline_met=deadline_met,
            first_token_ms=(decoded.first_ns - asked_ns) / 1e6,
            per_token_ms=(times[-1] - times[0]) / (len(times) - 1) / 1e6 if len(times) > 1 else None,
            spans=tuple(recorder.spans),
            encode_spans=tokens.spans,
            bundle_id=self.bundle.id,
            backend=self.backend,
        )

    def _num_visual_tokens(self, camera: CameraTokens) -> int:
        fuse = self.bundle.manifest.fuse
        return fuse.num_tokens * (camera.num_tiles if fuse.unit == "tile" else 1)

    def _place_visual_embeds(
        self, embeds: Tensor, prompt: Prompt, tokens: VisualTokens, recorder: SpanRecorder
    ) -> dict[str, Tensor]:
        """Writes the visual embeddings into `embeds` [S, D] and returns the language model's routing inputs."""
        text = self.table.lookup(np.array(prompt.question_ids, np.int64))
        visual = [camera.fused for camera in tokens.cameras if camera.fused is not None]
        if len(visual) != len(tokens.cameras):
            with recorder.measure("fuse"):
                visual = self._fuse(list(tokens.cameras), text)
        for (start, length), camera_embeds in zip(prompt.image_spans, visual, strict=True):
            embeds[start : start + length] = camera_embeds[_evenly(len(camera_embeds), length)]
        if not self.bundle.manifest.decoder.routed:
            return {}
        with recorder.measure("router"):
            return self._route(visual, text)

    def _route(self, visual: list[Tensor], text: Tensor) -> dict[str, Tensor]:
        """Returns the language model's routing inputs. Without an image only the general expert works, wherever tokens go."""
        if not visual:
            shape = tuple(dim for dim in self.bundle.manifest.graphs["router"].outputs[0].shape if isinstance(dim, int))
            return {"router_context": np.zeros(shape, text.dtype), "use_special": np.zeros(1, text.dtype)}
        inputs = {"visual_embeds": self.engine.concatenate(visual), "text_embeds": text}
        return self.sessions["router"].run(inputs) | {"use_special": np.ones(1, text.dtype)}

    def _fuse(self, cameras: list[CameraTokens], text: Tensor | None) -> list[Tensor]:
        """Returns each camera's visual embeddings [n, D]. Cameras with equally many tiles go together."""
        fused: dict[str, Tensor] = {}
        for count in dict.fromkeys(camera.num_tiles for camera in cameras):
            group = [camera for camera in cameras if camera.num_tiles == count]
            inputs: dict[str, Tensor] = {} if text is None else {"text_embeds": text}
            for name in group[0].by_expert:
                tokens = self.engine.concatenate([camera.by_expert[name] for camera in group])  # [cameras * tiles, N, d]
                per_image = self.bundle.manifest.fuse.unit == "image"
                inputs[f"tokens.{name}"] = tokens.reshape(len(group), -1, tokens.shape[2]) if per_image else tokens
            output = self.sessions["fuse"].run(inputs)["visual_embeds"]
            embeds = output.reshape(-1, output.shape[-1])
            length = len(embeds) // len(group)
            for i, camera in enumerate(group):
                fused[camera.channel] = embeds[i * length : (i + 1) * length]
        return [fused[camera.channel] for camera in cameras]


def open_pipeline(
    bundle: str | os.PathLike[str] | Bundle, backend: str = "auto", *, threads: int = 0, standard_graphs: bool = False
) -> Pipeline:
    """Verifies a bundle and loads it. `threads` 0 leaves the number to the engine; `Pipeline.backend` says what runs.

    `standard_graphs` leaves the bundle's CPU forms aside.

    Raises:
        BundleError: the bundle is not whole.
        BackendError: the engine is unknown, is not here, or refuses a graph.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    manifest = opened.manifest
    check_sizes(manifest)
    table = EmbeddingTable(opened.path(manifest.embedding))
    wanted = (manifest.decoder.vocab_size, manifest.decoder.hidden_size)
    if table.shape != wanted:
        raise BundleError(f"{manifest.embedding} is {table.shape}, expected {wanted}: export the bundle again")
    tokenizer = Tokenizer(opened.path(manifest.tokenizer))
    engine = open_engine(opened, table, backend, threads=threads, standard_graphs=standard_graphs)
    return Pipeline(opened, engine, tokenizer, table, engine.sessions, engine.decoder)


def _evenly(num: int, wanted: int) -> npt.NDArray[np.int64] | slice:
    """Returns the places of `wanted` of `num` tokens, evenly spread; of all of them, without a copy."""
    return slice(None) if wanted == num else np.arange(wanted) * num // wanted


def _split_cameras(batch: TileBatch, tokens: Mapping[str, Tensor]) -> Iterator[CameraTokens]:
    """Yields each camera's part of the experts' tokens [T, N, d]."""
    start = 0
    for channel, count, stamp_ns in zip(batch.channels, batch.counts, batch.stamps_ns, strict=True):
        part = {name: array[start : start + count] for name, array in tokens.items()}
        yield CameraTokens(channel, stamp_ns, part)
        start += count
