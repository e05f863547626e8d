"""Runs a float bundle on real questions and keeps what its activations look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from leo_edge.calib.layers import layers_of, rule_for
from leo_edge.calib.ports import port_of
from leo_edge.calib.statistics import Statistics
from leo_edge.calib.table import Key
from leo_edge.runtime.backend import Array, FloatArray, Session
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import CalibrationError
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.manifest import DecoderManifest
from leo_edge.runtime.ort import OrtSession
from leo_edge.runtime.pipeline import AskOptions, Pipeline, open_pipeline
from leo_edge.runtime.tokens import VisualTokens


@dataclass(frozen=True)
class ObservedGraph:
    """A graph that gives some of its inner tensors too; `channels_last` says of each whether its last axis holds channels."""

    name: str
    channels_last: Mapping[str, bool]
    session: OrtSession


def observed_tensors(name: str, model: ir.Model, decoder: DecoderManifest) -> dict[str, bool]:
    """Returns what is observed: the inputs of the layers that are quantized by default, and a token-major cache's new rows."""
    tensors: dict[str, bool] = {}
    for layer in layers_of(name, model):
        if rule_for(layer) is None:
            tensors[layer.input] = tensors.get(layer.input, False) or layer.kind == "MatMul"
    if name == "llm" and decoder.cache == "prefix":
        tensors |= dict.fromkeys(cache_tensors(decoder), True)
    return tensors


def cache_tensors(decoder: DecoderManifest) -> list[str]:
    """Returns the names of a cache's new rows."""
    return [f"new_{part}.{i}" for i in range(decoder.num_layers) for part in ("key", "value")]


def observe_graph(bundle: Bundle, name: str, *, threads: int = 0) -> ObservedGraph:
    """Opens a graph of a bundle with what is observed among its outputs.

    Raises:
        CalibrationError: it is quantized already.
        BackendError: onnxruntime refuses it.
    """
    spec = bundle.manifest.graphs[name]
    path = bundle.path(spec.file)
    model = ir.load(path)
    if any(node.op_type == "DequantizeLinear" for node in model.graph):
        raise CalibrationError(
            f"graph {name} of {bundle.directory} is quantized: calibrate the float bundle that it was made from"
        )
    tensors = observed_tensors(name, model, bundle.manifest.decoder)
    values = {value.name: value for node in model.graph for value in node.outputs}
    outputs = {value.name for value in model.graph.outputs}
    extra = [values[tensor] for tensor in tensors if tensor not in outputs]
    model.graph.outputs.extend(extra)
    observed = replace(spec, outputs=(*spec.outputs, *(port_of(value) for value in extra)))
    session = OrtSession(path, observed, threads=threads, model=ir.to_proto(model).SerializeToString())
    return ObservedGraph(name, tensors, session)


class Observer:
    """Observes the vision experts and the language model of a bundle, frame set by frame set."""

    def __init__(self, bundle: Bundle, *, max_new_tokens: int = 32, threads: int = 0) -> None:
        self.pipeline: Pipeline = open_pipeline(bundle, "ort", threads=threads)
        self._options = AskOptions(max_new_tokens)
        self._experts = [observe_graph(bundle, f"vision.{one.name}", threads=threads) for one in bundle.manifest.experts]
        self._llm = observe_graph(bundle, "llm", threads=threads)
        self.statistics: dict[Key, Statistics] = {}

    def observe(self, frame_set: FrameSet, questions: Sequence[str], number: int) -> None:
        """Takes a frame set, number `number` of the calibration, and questions about it into account.

        The language model is given each prompt with its own greedy answer behind it.

        Raises:
            CalibrationError: an activation is not finite.
        """
        watched: dict[str, Session] = {
            expert.name: _Watched(expert.session, partial(self._keep, expert, is_visual=None, number=number))
            for expert in self._experts
        }
        tokens = replace(self.pipeline, sessions={**self.pipeline.sessions, **watched}).encode(frame_set)
        for question in questions:
            sequence = teacher_forced(self.pipeline, tokens, question, self._options)
            outputs = self._llm.session.run(
                llm_inputs(self.pipeline.bundle.manifest.decoder, sequence.embeds, sequence.routing)
            )
            self._keep(self._llm, outputs, sequence.is_visual, number)

    def sequence(self, frame_set: FrameSet, question: str) -> Forced:
        """Returns the prompt for a question with its greedy answer behind it."""
        return teacher_forced(self.pipeline, self.pipeline.encode(frame_set), question, self._options)

    def _keep(
        self, graph: ObservedGraph, outputs: Mapping[str, Array], is_visual: npt.NDArray[np.bool_] | None, number: int
    ) -> None:
        for tensor, channels_last in graph.channels_last.items():
            one, values = self.statistics.setdefault((graph.name, tensor), Statistics()), outputs[tensor]
            try:
                if not channels_last:
                    one.histogram.add(values)
                else:
                    rows = values.reshape(-1, values.shape[-1]) if is_visual is None else values.reshape(len(is_visual), -1)
                    one.add_rows(tensor, rows, np.ones(len(rows), bool) if is_visual is None else is_visual, number)
            except CalibrationError as error:
                raise CalibrationError(
                    f"{tensor} of graph {graph.name} has {error}: the bundle computes no numbers here, verify it"
                ) from error


@dataclass(frozen=True)
class _Watched:
    """A session whose outputs somebody looks at."""

    session: OrtSession
    look: Callable[[Mapping[str, Array]], None]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Session`."""
        outputs = self.session.run(inputs)
        self.look(outputs)
        return outputs


@dataclass(frozen=True, eq=False)
class Forced:
    """A prompt with an answer behind it: embeddings [S, D], which of them are visual tokens, and the routing inputs."""

    embeds: FloatArray
    is_visual: npt.NDArray[np.bool_]
    routing: Mapping[str, Array]
    prompt_len: int
    answer_ids: tuple[int, ...]


def teacher_forced(pipeline: Pipeline, tokens: VisualTokens, question: str, options: AskOptions) -> Forced:
    """Answers a question greedily, and returns the prompt with that answer behind it."""
    answer = pipeline.ask(tokens, question, options)
    prepared = pipeline.prepare(tokens, question, options.max_new_tokens)
    said = pipeline.table.lookup(np.array(answer.token_ids, np.int64))
    is_visual = np.zeros(len(prepared.embeds) + len(said), bool)
    for start, length in prepared.prompt.image_spans:
        is_visual[start : start + length] = True
    embeds = np.concatenate([prepared.embeds, said])
    return Forced(embeds, is_visual, prepared.routing, len(prepared.embeds), answer.token_ids)


def llm_inputs(decoder: DecoderManifest, embeds: FloatArray, routing: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the language model's inputs for a whole sequence [S, D] with nothing before it."""
    if decoder.cache == "prefix":
        past = np.zeros((0, decoder.num_kv_heads, decoder.head_dim), embeds.dtype)
    else:
        past = np.zeros((1, decoder.num_kv_heads, len(embeds), decoder.head_dim), embeds.dtype)
    caches = {f"past_{part}.{i}": past for part in ("key", "value") for i in range(decoder.num_layers)}
    last = np.array([len(embeds) - 1])
    return {"embeds": embeds, "positions": np.arange(len(embeds)), "logit_rows": last, **caches, **routing}
