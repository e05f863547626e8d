"""Does this device compute what onnxruntime computes on the CPU? Every stage on the same inputs, then whole answers.

A bundle answers questions about made-up frames in onnxruntime. What each graph was given there is given to the device's engine
too, and what it gives is compared and timed; the language model is led along the reference's tokens, so that one other token
does not make all that follow incomparable.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from leo_edge.calib.similarity import cosine
from leo_edge.runtime.backend import Array, Decoder, Logits, Session, Tensor
from leo_edge.runtime.frames import NUSCENES_CAMERAS, NUSCENES_PX, CameraFrame, FrameSet
from leo_edge.runtime.manifest import BundleManifest
from leo_edge.runtime.pipeline import AskOptions, Pipeline, Savings
from leo_edge.runtime.tiles import TileBatch

QUESTIONS = ("What is in front of the car?", "What should the car do next?")
# The largest error, as a part of the reference's largest value, and the smallest cosine. INT8: a value beside a rounding
# boundary falls on either side of it, and what follows differs by a step of the scale.
LIMITS = {"float32": (1e-3, 0.9999), "float16": (3e-2, 0.999), "int8": (2e-1, 0.99)}
_GREY_LEVELS = 1.0


@dataclass(frozen=True)
class StageCheck:
    """A stage on the device against onnxruntime on the CPU. Times are medians of a run, in milliseconds."""

    name: str
    runs: int
    max_abs_error: float
    relative_error: float
    cosine: float
    device_ms: float
    reference_ms: float
    passed: bool


@dataclass(frozen=True)
class DeviceReport:
    """All stages, the tokens of the led language model, and the answers that device and reference give on their own.

    `tokens_tied`: tokens that differ where the reference's two likeliest are nearer to each other than the stage's error.
    """

    stages: tuple[StageCheck, ...]
    num_tokens: int
    tokens_equal: int
    tokens_tied: int
    answers: tuple[tuple[str, str], ...]

    @property
    def passed(self) -> bool:
        """Whether every stage is within its limits and every token the reference's, or as likely within the error."""
        return all(stage.passed for stage in self.stages) and self.tokens_equal + self.tokens_tied == self.num_tokens


@dataclass
class _Calls:
    """What a graph was given and gave, and how long it took."""

    inputs: list[dict[str, Array]] = field(default_factory=list)
    outputs: list[dict[str, Array]] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)


class _Recorded:
    """A session that is recorded."""

    def __init__(self, session: Session) -> None:
        self._session, self.calls = session, _Calls()

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the graph."""
        outputs: dict[str, Tensor]
        outputs, ms = timed(lambda: self._session.run(inputs))
        self.calls.inputs.append({name: np.array(array) for name, array in inputs.items()})
        self.calls.outputs.append({name: np.array(array) for name, array in outputs.items()})
        self.calls.ms.append(ms)
        return outputs


class _RecordedDecoder:
    """A decoder that is recorded: its prompts, the tokens that followed, and the logits after each."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.prompts: list[tuple[Array, dict[str, Array], list[int]]] = []
        self.logits: list[Logits] = []
        self.prefill_ms: list[float] = []
        self.step_ms: list[float] = []

    @property
    def context_len(self) -> int:
        """See `Decoder`."""
        return self._decoder.context_len

    @property
    def length(self) -> int:
        """See `Decoder`."""
        return self._decoder.length

    @property
    def label(self) -> object:
        """See `Decoder`."""
        return self._decoder.label

    def prefill(self, embeds: Tensor, routing: Mapping[str, Tensor], *, keep: int = 0, label: object = None) -> Logits:
        """See `Decoder`."""
        self.prompts.append((np.array(embeds), {name: np.array(array) for name, array in routing.items()}, []))
        logits: Logits
        logits, ms = timed(lambda: self._decoder.prefill(embeds, routing, keep=keep, label=label))
        self.prefill_ms.append(ms)
        self.logits.append(logits)
        return logits

    def step(self, token_id: int) -> Logits:
        """See `Decoder`."""
        self.prompts[-1][2].append(token_id)
        logits: Logits
        logits, ms = timed(lambda: self._decoder.step(token_id))
        self.step_ms.append(ms)
        self.logits.append(logits)
        return logits

    def extend(self, token_ids: Sequence[int]) -> Logits:
        """See `Decoder`."""
        return np.stack([self.step(token_id) for token_id in token_ids])

    def rewind(self, length: int) -> None:
        """See `Decoder`."""
        self._decoder.rewind(length)


def check_device(
    device: Pipeline,
    reference: Pipeline,
    *,
    max_new_tokens: int = 16,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> DeviceReport:
    """Compares two pipelines of one bundle, stage by stage.

    Raises:
        BackendError: an engine fails.
        ContextOverflowError: six cameras and an answer do not fit the context.
    """
    manifest = reference.bundle.manifest
    frame_set = made_up_frames(seed)
    say("answering in onnxruntime")
    sessions = {name: _Recorded(session) for name, session in reference.sessions.items()}
    decoder = _RecordedDecoder(reference.decoder)
    watched = replace(reference, sessions=sessions, decoder=decoder, savings=Savings(prefix=False, speculation=False))
    options = AskOptions(max_new_tokens)
    tokens = watched.encode(frame_set)
    expected = [watched.ask(tokens, question, options).text for question in QUESTIONS]
    stages = []
    if "tiles" in device.sessions:
        stages.append(_check_tiles(device, frame_set))
    for name, session in sessions.items():
        say(f"comparing {name}")
        stages.append(_check_session(name, device, session.calls, _limits(manifest, name)))
    say("comparing llm")
    llm, counts = _check_decoder(device.decoder, decoder, _limits(manifest, "llm"))
    say("answering on the device")
    tokens = device.encode(frame_set)
    answers = [device.ask(tokens, question, options).text for question in QUESTIONS]
    return DeviceReport((*stages, *llm), *counts, tuple(zip(expected, answers, strict=True)))


def made_up_frames(seed: int) -> FrameSet:
    """Returns six cameras of smooth coloured noise: edges and areas, but nothing that a JPEG would have to bring along."""
    random = np.random.default_rng(seed)
    frames = []
    for channel in NUSCENES_CAMERAS:
        coarse = Image.fromarray(random.integers(0, 256, (9, 16, 3), np.uint8))
        frames.append(CameraFrame(channel, np.asarray(coarse.resize(NUSCENES_PX, Image.Resampling.BICUBIC))))
    return FrameSet.of(frames)


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Returns what a call gives, and how long it took in milliseconds."""
    start = time.perf_counter_ns()
    result = run()
    return result, (time.perf_counter_ns() - start) / 1e6


def _limits(manifest: BundleManifest, graph: str) -> tuple[float, float]:
    """Routers and fusions of a quantized bundle are fed alike on both sides, so their own float type counts."""
    quantized = manifest.quantized and (graph == "llm" or graph.startswith("vision."))
    return LIMITS["int8" if quantized else manifest.float_type]


def _check_tiles(device: Pipeline, frame_set: FrameSet) -> StageCheck:
    """Cuts tiles on the device and by PIL, which may be a grey level apart."""
    tiling = device.bundle.manifest.tiling
    wanted, reference_ms = timed(lambda: TileBatch.from_frames(frame_set, tiling).tiles)
    device.engine.cut(frame_set, tiling)  # the first run brings the matrices up
    got, device_ms = timed(lambda: device.engine.cut(frame_set, tiling).tiles)
    tiles = np.asarray(got)
    error = float(np.abs(tiles.astype(np.int16) - wanted.astype(np.int16)).max())
    similar = cosine(tiles.astype(np.float32), wanted.astype(np.float32))
    return StageCheck("tiles", 1, error, error / 255, similar, device_ms, reference_ms, error <= _GREY_LEVELS)


def _check_session(name: str, device: Pipeline, calls: _Calls, limits: tuple[float, float]) -> StageCheck:
    """Gives the device what the reference was given; tiles in as large a batch as the device takes."""
    inputs, outputs = calls.inputs, calls.outputs
    if name.startswith("vision."):
        size = device.engine.tiles_per_run(name)
        inputs, outputs = _joined(inputs, size), _joined(outputs, size)
    got: list[dict[str, Array]] = []
    ms: list[float] = []
    for given in inputs:
        device.sessions[name].run(given)  # the first of a shape is slow: TensorRT prepares it
        result, took = timed(lambda given=given: device.sessions[name].run(given))  # type: ignore[misc]
        got.append({port: np.asarray(array) for port, array in result.items()})
        ms.append(took)
    pairs = [(got[i][port], wanted[port]) for i, wanted in enumerate(outputs) for port in wanted]
    per_call = len(calls.ms) / len(ms)  # the reference's time for as much as the device took at once
    return _judge(name, pairs, (statistics.median(ms), statistics.median(calls.ms) * per_call), limits)


def _joined(calls: Sequence[dict[str, Array]], size: int) -> list[dict[str, Array]]:
    """Joins calls of one tile each to batches."""
    groups = [calls[start : start + size] for start in range(0, len(calls), size)]
    return [{port: np.concatenate([call[port] for call in group]) for port in group[0]} for group in groups]


def _check_decoder(
    decoder: Decoder, recorded: _RecordedDecoder, limits: tuple[float, float]
) -> tuple[list[StageCheck], tuple[int, int, int]]:
    """Leads the device's language model along the reference's tokens; returns its stages and the counts of tokens."""
    logits: list[Logits] = []
    first: list[int] = []  # where each prompt's logits begin
    ms: dict[str, list[float]] = {"prefill": [], "step": []}
    for embeds, routing, token_ids in recorded.prompts:
        first.append(len(logits))
        decoder.prefill(embeds, routing)  # the first of a shape is slow
        result, took = timed(lambda embeds=embeds, routing=routing: decoder.prefill(embeds, routing))  # type: ignore[misc]
        logits.append(result)
        ms["prefill"].append(took)
        for token_id in token_ids:
            result, took = timed(lambda token_id=token_id: decoder.step(token_id))  # type: ignore[misc]
            logits.append(result)
            ms["step"].append(took)
    pairs = list(zip(logits, recorded.logits, strict=True))
    parts = {
        "llm prefill": ([pairs[i] for i in first], ms["prefill"], recorded.prefill_ms),
        "llm step": ([pair for i, pair in enumerate(pairs) if i not in first], ms["step"], recorded.step_ms),
    }
    stages = [
        _judge(name, chosen, (statistics.median(mine), statistics.median(its)), limits)
        for name, (chosen, mine, its) in parts.items()
        if chosen
    ]
    equal = sum(int(mine.argmax() == its.argmax()) for mine, its in pairs)
    tied = sum(int(mine.argmax() != its.argmax() and _tied(mine, its)) for mine, its in pairs)
    return stages, (len(pairs), equal, tied)


def _tied(logits: Logits, reference: Logits) -> bool:
    """Whether the reference likes the device's token as much as its own, within twice their largest difference."""
    error = float(np.abs(logits - reference).max())
    return float(reference.max() - reference[int(logits.argmax())]) <= 2 * error


def _judge(name: str, pairs: Sequence[tuple[Array, Array]], ms: tuple[float, float], limits: tuple[float, float]) -> StageCheck:
    # numpy's, for what is not a number must come through: Python's would pass over it behind a number.
    error = float(np.max([np.abs(got.astype(np.float64) - wanted).max() for got, wanted in pairs]))
    largest = float(np.max([np.abs(wanted.astype(np.float64)).max() for _, wanted in pairs]))
    relative = error / max(largest, 1e-12)
    similar = float(np.min([cosine(got, wanted) for got, wanted in pairs]))
    passed = relative <= limits[0] and similar >= limits[1]  # false too where something is not a number
    return StageCheck(name, len(pairs), error, relative, similar, *ms, passed)
