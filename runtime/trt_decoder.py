"""The language model in TensorRT: prefill, steps that are captured as CUDA graphs, and the cache of both graph levels.

Shape letters: S new tokens, P past tokens, Q tokens whose logits are wanted, K key-value heads, E head width, C cache capacity,
D hidden width, V vocabulary, N caches (keys and values of all layers).

An engine has a profile for the prefill and profiles for a step. A captured graph has fixed shapes and addresses, so a step
does not take the past as it is but a bucket of rows, of which the graph does not look at those behind the past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from leo_edge.runtime.backend import Logits, Tensor, check_kept, check_rewound
from leo_edge.runtime.cuda import ALIGNMENT, CapturedGraph, PinnedBuffer, aligned
from leo_edge.runtime.device_array import Copies, DeviceArray
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.errors import BackendError, ContextOverflowError
from leo_edge.runtime.manifest import DecoderManifest

if TYPE_CHECKING:
    from leo_edge.runtime.trt import Lane, LoadedPlan

_PREFILL = 0  # its profile; those of steps follow


class _Cache(Protocol):
    """Keys and values on the device."""

    capacity: int

    def bind(self, context: Any, past: int, rows: int, fixed: bool, /) -> None:
        """Binds `rows` rows as the past, of which `past` are tokens, and the place of new ones.

        `fixed`: the same addresses every time, for a graph that is captured.
        """

    def settle(self, past: int, count: int, fixed: bool, /) -> None:
        """Queues what brings `count` new rows to their place, if the run did not write them there."""

    def clear(self) -> None:
        """Queues zeros: what is masked must be finite."""


class PrefixCache:
    """The opset-20 cache: per layer and part token-major, [C, K, E].

    The past goes in as the first rows of a buffer, and new rows are written right behind them, by address: nothing is copied.
    Where they cannot be (a captured graph has one address; TensorRT wants 256-byte alignment, which short rows have not), they
    are written aside and moved by one copy for all layers.
    """

    def __init__(self, plan: LoadedPlan, lane: Lane, copies: Copies, manifest: DecoderManifest, names: list[str]) -> None:
        self._plan, self._stream, self._names = plan, lane.stream, names
        self._row = (manifest.num_kv_heads, manifest.head_dim)
        self._row_bytes = manifest.num_kv_heads * manifest.head_dim * plan.dtypes[f"past_{names[0]}"].itemsize
        self._in_place = self._row_bytes % ALIGNMENT == 0
        profiles = range(1, plan.engine.num_optimization_profiles)
        self.buckets = {plan.profile_shapes(f"past_{names[0]}", profile)[2][0]: profile for profile in profiles}
        self.capacity = min(manifest.context_len, max(self.buckets, default=manifest.context_len))
        self._pitch = aligned(self.capacity * self._row_bytes)
        most = 1 if self._in_place else plan.profile_shapes("embeds", _PREFILL)[2][0]
        self._aside_pitch = aligned(most * self._row_bytes)
        self._block = copies.pool.allocate(len(names) * self._pitch)
        self._aside = copies.pool.allocate(len(names) * self._aside_pitch)
        self.clear()

    def bind(self, context: Any, past: int, rows: int, fixed: bool, /) -> None:
        """See `_Cache`."""
        for i, name in enumerate(self._names):
            start = self._block.pointer + i * self._pitch
            self._plan.bind_input(context, f"past_{name}", (rows, *self._row), start)
            in_place = self._in_place and not fixed
            new = start + past * self._row_bytes if in_place else self._aside.pointer + i * self._aside_pitch
            self._plan.bind(context, f"new_{name}", new)

    def settle(self, past: int, count: int, fixed: bool, /) -> None:
        """See `_Cache`."""
        if self._in_place and not fixed:
            return
        self._stream.copy_rows(
            self._block.pointer + past * self._row_bytes,
            self._pitch,
            self._aside.pointer,
            self._aside_pitch,
            width=count * self._row_bytes,
            rows=len(self._names),
        )

    def clear(self) -> None:
        """See `_Cache`."""
        self._stream.clear(self._block.pointer, len(self._names) * self._pitch)


class ScatterCache:
    """The opset-24 cache: per layer and part [1, K, C, E], input and output at one address; C was fixed by the build."""

    def __init__(self, plan: LoadedPlan, lane: Lane, copies: Copies, manifest: DecoderManifest, names: list[str]) -> None:
        self._plan, self._stream, self._names = plan, lane.stream, names
        self._shape = tuple(plan.engine.get_tensor_shape(f"past_{names[0]}"))
        self.capacity = min(manifest.context_len, self._shape[2])
        self._pitch = aligned(int(np.prod(self._shape)) * plan.dtypes[f"past_{names[0]}"].itemsize)
        self._block = copies.pool.allocate(len(names) * self._pitch)
        self.buckets = {self.capacity: 1}
        self.clear()

    def bind(self, context: Any, _past: int, _rows: int, _fixed: bool, /) -> None:
        """See `_Cache`."""
        for i, name in enumerate(self._names):
            start = self._block.pointer + i * self._pitch
            self._plan.bind_input(context, f"past_{name}", self._shape, start)
            self._plan.bind(context, f"new_{name}", start)

    def settle(self, _past: int, _count: int, _fixed: bool, /) -> None:
        """Does nothing: rows are written in place."""

    def clear(self) -> None:
        """See `_Cache`."""
        self._stream.clear(self._block.pointer, len(self._names) * self._pitch)


class _Step:
    """A step over one bucket of the past: launched as a graph, or run as it is where it could not be captured."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.graph: CapturedGraph | None = None


class TrtDecoder:
    """A language model in TensorRT, with its cache, for one prompt at a time."""

    def __init__(self, plan: LoadedPlan, lane: Lane, copies: Copies, manifest: DecoderManifest, table: EmbeddingTable) -> None:
        self._plan, self._lane, self._copies, self._table = plan, lane, copies, table
        names = [f"{part}.{i}" for part in ("key", "value") for i in range(manifest.num_layers)]
        kind: Callable[..., PrefixCache | ScatterCache] = PrefixCache if manifest.cache == "prefix" else ScatterCache
        self._cache = kind(plan, lane, copies, manifest, names)
        self._prefill_rows = plan.profile_shapes("embeds", _PREFILL)[2][0]
        self._captures = True
        self.notes: list[str] = []
        self._steps: dict[int, _Step] = {}
        self._length, self._num_logits = 0, 1
        self._label: object = None
        taken = {"embeds", "positions", "logit_rows", *(f"past_{name}" for name in names)}
        self._routing = {
            port: copies.empty(tuple(plan.engine.get_tensor_shape(port)), plan.dtypes[port])
            for port in plan.inputs
            if port not in taken
        }
        self._embeds = copies.empty((1, manifest.hidden_size), plan.dtypes["embeds"])
        self._position = copies.empty((1,), plan.dtypes["positions"])
        self._most_logits = plan.profile_shapes("logit_rows", _PREFILL)[2][0]
        self._logits = copies.empty((self._most_logits, manifest.vocab_size), plan.dtypes["logits"])
        self._first_row = copies.upload(np.zeros(1, np.int64))
        self._pinned = PinnedBuffer()
        self._places = _Places(self._embeds.nbytes, self._position.nbytes, self._logits.nbytes)
        self._host = self._pinned.reserve(self._places.end)
        self._lane.stream.wait()

    @property
    def context_len(self) -> int:
        """The most tokens that fit the cache."""
        return self._cache.capacity

    @property
    def length(self) -> int:
        """How many tokens are in the cache."""
        return self._length

    def warm_up(self) -> None:
        """Takes and captures a step of every bucket, so that no answer waits for that, nor finds that memory is short.

        Raises:
            BackendError: the device has not the memory, or TensorRT refuses.
        """
        with self._lane.lock:
            self._host[:] = 0
            for bucket in self._cache.buckets:
                step = self._bind_step(bucket)
                with self._lane.stream.ending():
                    self._queue_step(step)
                if self._captures:
                    self._capture(step)
            self._cache.clear()
            self._lane.stream.wait()

    @property
    def label(self) -> object:
        """What the prompt in the cache was called."""
        return self._label

    def prefill(self, embeds: Tensor, routing: Mapping[str, Tensor], *, keep: int = 0, label: object = None) -> Logits:
        """See `Decoder`."""
        check_kept(keep, self._length, len(embeds))
        self._label = None
        if set(routing) != set(self._routing):
            raise BackendError(
                f"engine llm takes {', '.join(self._routing) or 'no routing'}, got {', '.join(routing) or 'none'}"
            )
        for port, array in {"embeds": embeds, **routing}.items():  # TensorRT is given an address, and takes it for its own type
            if array.dtype != self._plan.dtypes[port]:
                raise BackendError(f"engine llm takes {port} as {self._plan.dtypes[port]}, got {array.dtype}")
        with self._lane.lock:
            for port, array in routing.items():
                device = array if isinstance(array, DeviceArray) else self._copies.upload(array)
                self._routing[port][:] = device
            if not np.isfinite(self._all_logits()).all():
                self._cache.clear()
                keep = 0
            self._length = keep
            whole = embeds if isinstance(embeds, DeviceArray) else self._copies.upload(embeds)
            for start in range(keep, len(whole), self._prefill_rows):
                self._append(whole[start : start + self._prefill_rows], 1)
            self._label = label
            return self._last_logits()

    def step(self, token_id: int) -> Logits:
        """See `Decoder`."""
        with self._lane.lock:
            past = self._length
            self._check_room(past + 1)
            self._host[: self._embeds.nbytes] = self._table.lookup(np.array([token_id])).reshape(-1).view(np.uint8)
            self._host[self._places.position :][: self._position.nbytes] = np.array([past]).view(np.uint8)
            bucket = min(rows for rows in self._cache.buckets if past <= rows)
            step = self._steps[bucket]
            with self._lane.stream.ending():
                if step.graph is None:
                    self._queue_step(step)
                else:
                    step.graph.launch(self._lane.stream)
                self._cache.settle(past, 1, True)
            self._length += 1
            self._num_logits = 1
            return self._last_logits()

    def extend(self, token_ids: Sequence[int]) -> Logits:
        """See `Decoder`."""
        if len(token_ids) == 1:
            return self.step(token_ids[0])[None]
        with self._lane.lock:
            rows = self._copies.upload(self._table.lookup(np.array(token_ids)))
            found = []
            for start in range(0, len(rows), self._most_logits):
                piece = rows[start : start + self._most_logits]
                self._append(piece, len(piece))
                found.append(self._all_logits())
            return np.concatenate(found)

    def rewind(self, length: int) -> None:
        """See `Decoder`."""
        check_rewound(length, self._length)
        self._length = length

    def _append(self, embeds: DeviceArray, num_logits: int) -> None:
        """Takes embeds [S, D] behind what is in the cache, and brings the logits of the last of them to the host."""
        past, count, plan = self._length, len(embeds), self._plan
        self._check_room(past + count)
        context = plan.context(_PREFILL, self._lane)
        held = self._aligned(embeds)
        positions = self._copies.upload(np.arange(past, past + count, dtype=np.int64))
        rows = self._copies.upload(np.arange(count - num_logits, count, dtype=np.int64))
        plan.bind_input(context, "embeds", held.shape, held.pointer)
        plan.bind_input(context, "positions", positions.shape, positions.pointer)
        plan.bind_input(context, "logit_rows", rows.shape, rows.pointer)
        self._bind_rest(context, past, rows=past, fixed=False)
        with self._lane.stream.ending():
            plan.run(context, self._lane.stream)
            self._cache.settle(past, count, False)
            self._download_logits(num_logits)
        self._length += count
        self._num_logits = num_logits

    def _bind_step(self, bucket: int) -> _Step:
        """Binds what a step over this bucket reads and writes, once for all."""
        context = self._plan.context(self._cache.buckets[bucket], self._lane)
        self._plan.bind_input(context, "embeds", self._embeds.shape, self._embeds.pointer)
        self._plan.bind_input(context, "positions", self._position.shape, self._position.pointer)
        self._plan.bind_input(context, "logit_rows", self._first_row.shape, self._first_row.pointer)
        self._bind_rest(context, self._length, rows=bucket, fixed=True)
        self._steps[bucket] = _Step(context)
        return self._steps[bucket]

    def _bind_rest(self, context: Any, past: int, *, rows: int, fixed: bool) -> None:
        self._cache.bind(context, past, rows, fixed)
        for port, array in self._routing.items():
            self._plan.bind_input(context, port, array.shape, array.pointer)
        self._plan.bind(context, "logits", self._logits.pointer)

    def _queue_step(self, step: _Step) -> None:
        stream, start = self._lane.stream, self._pinned.pointer
        stream.upload(self._embeds.pointer, start, self._embeds.nbytes)
        stream.upload(self._position.pointer, start + self._places.position, self._position.nbytes)
        self._plan.run(step.context, stream)
        self._download_logits(1)

    def _capture(self, step: _Step) -> None:
        """Captures a step that has run once, as TensorRT wants it. Where it cannot be captured, steps run as they are."""
        try:
            step.graph = self._lane.stream.capture(lambda: self._queue_step(step))
        except BackendError as error:
            self._captures = False
            self.notes.append(f"without CUDA graphs ({error})")

    def _download_logits(self, count: int) -> None:
        num_bytes = count * self._logits.nbytes // self._most_logits
        self._lane.stream.download(self._pinned.pointer + self._places.logits, self._logits.pointer, num_bytes)

    def _all_logits(self) -> Logits:
        """Returns the logits [n, V] that were brought to the host last."""
        view = self._host[self._places.logits :][: self._num_logits * self._logits.nbytes // self._most_logits]
        return view.view(self._logits.dtype).reshape(self._num_logits, -1).astype(np.float32)

    def _last_logits(self) -> Logits:
        logits: Logits = self._all_logits()[-1]
        return logits

    def _aligned(self, array: DeviceArray) -> DeviceArray:
        """Returns the array where TensorRT takes it: a piece of a larger one may begin anywhere."""
        if array.pointer % ALIGNMENT == 0:
            return array
        made = self._copies.empty(array.shape, array.dtype)
        made[:] = array
        return made

    def _check_room(self, length: int) -> None:
        if length > self.context_len:
            raise ContextOverflowError(
                f"{length} tokens do not fit the context of {self.context_len}: use fewer cameras or tiles, or export and "
                f"build again with --context-len {length}"
            )


class _Places:
    """Where a step's embedding, position and logits lie in pinned memory, in bytes from its start."""

    def __init__(self, embeds_bytes: int, position_bytes: int, logits_bytes: int) -> None:
        self.position = aligned(embeds_bytes)
        self.logits = self.position + aligned(position_bytes)
        self.end = self.logits + logits_bytes
