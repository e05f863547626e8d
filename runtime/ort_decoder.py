"""The language model in onnxruntime: its cache, for both graph levels and for the CPU form, bound by address.

Shape letters: S new tokens, P past tokens, K key-value heads, E head width, C cache capacity, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from leo_edge.runtime.backend import Array, Logits, Tensor, check_kept, check_rewound
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.errors import BackendError, ContextOverflowError, first_line
from leo_edge.runtime.manifest import DecoderManifest

_FIRST_BUCKET = 256
_PREFILL_ROWS = 512


def grown_capacity(length: int, context_len: int) -> int:
    """Returns how long a cache that doubles has grown when it holds `length` tokens."""
    capacity = _FIRST_BUCKET
    while capacity < length:
        capacity *= 2
    return min(capacity, context_len)


class _OrtDecoder(ABC):
    """A language model in onnxruntime; the two kinds differ in how they keep and bind the cache."""

    def __init__(
        self,
        session: ort.InferenceSession,
        device: str,
        manifest: DecoderManifest,
        table: EmbeddingTable,
        dtype: np.dtype[Any],
    ) -> None:
        """`device` is where the session works, in onnxruntime's words; `dtype` that of the cache."""
        self._session, self._device, self._table = session, device, table
        self._manifest, self._dtype = manifest, dtype
        self._cache_names = [f"{part}.{i}" for part in ("key", "value") for i in range(manifest.num_layers)]
        self._logits = np.zeros((1, manifest.vocab_size), np.float32)
        self._routing: dict[str, Array] = {}
        self._length = 0
        self._label: object = None
        self._allocate()

    @property
    def context_len(self) -> int:
        """The most tokens that fit the cache."""
        return self._manifest.context_len

    @property
    def length(self) -> int:
        """How many tokens are in the cache."""
        return self._length

    @property
    def label(self) -> object:
        """What the prompt in the cache was called."""
        return self._label

    def prefill(self, embeds: Tensor, routing: Mapping[str, Tensor], *, keep: int = 0, label: object = None) -> Logits:
        """See `Decoder`."""
        check_kept(keep, self._length, len(embeds))
        self._label = None
        self._routing = {name: np.ascontiguousarray(array) for name, array in routing.items()}
        if not np.isfinite(self._logits).all():
            self._forget()
            keep = 0
        self._length = keep
        # Piece by piece: attention's scores take rows x context, which for a whole prompt of many cameras is gigabytes.
        for start in range(keep, len(embeds), _PREFILL_ROWS):
            logits = self._run(embeds[start : start + _PREFILL_ROWS], 1)
        self._label = label
        last: Logits = logits[0]
        return last

    def step(self, token_id: int) -> Logits:
        """See `Decoder`."""
        logits: Logits = self.extend((token_id,))[0]
        return logits

    def extend(self, token_ids: Sequence[int]) -> Logits:
        """See `Decoder`."""
        return self._run(self._table.lookup(np.array(token_ids)), len(token_ids))

    def rewind(self, length: int) -> None:
        """See `Decoder`."""
        check_rewound(length, self._length)
        self._length = length

    def _run(self, embeds: Tensor, num_logits: int) -> Logits:
        """Takes embeds [S, D] behind what is in the cache; returns the logits [n, V] of the last of them."""
        past, count = self._length, len(embeds)
        if past + count > self.context_len:
            raise ContextOverflowError(
                f"{past + count} tokens do not fit the context of {self.context_len}: use fewer cameras or tiles, "
                f"or export again with --context-len {past + count}"
            )
        positions = np.arange(past, past + count, dtype=np.int64)
        rows = np.arange(count - num_logits, count, dtype=np.int64)
        inputs = {"embeds": np.ascontiguousarray(embeds), "positions": positions, "logit_rows": rows, **self._routing}
        logits = np.empty((num_logits, self._manifest.vocab_size), np.float32)
        binding = self._session.io_binding()
        try:
            for name, array in inputs.items():
                binding.bind_cpu_input(name, array)
            binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
            self._bind_cache(binding, past, count)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise BackendError(f"onnxruntime failed: {first_line(error)}") from error
        self._length += count
        self._logits = logits
        return logits

    def _buffer(self, content: Array) -> ort.OrtValue:
        """Returns a cache where the provider works; on the CPU it is `content` itself, without a copy."""
        return ort.OrtValue.ortvalue_from_numpy(content, self._device, 0)

    @abstractmethod
    def _allocate(self) -> None:
        """Makes the cache."""

    @abstractmethod
    def _forget(self) -> None:
        """Clears what a prompt left that was not finite: masked values must be."""

    @abstractmethod
    def _bind_cache(self, binding: ort.IOBinding, past: int, count: int) -> None:
        """Binds `past` tokens as input and the place of `count` new ones as output, for every layer's keys and values."""


class PrefixDecoder(_OrtDecoder):
    """The opset-20 cache: token-major [C, K, E] per layer and part.

    The past goes in as a prefix of one buffer, bound by address, and the graph writes the new rows right behind it: no copy
    by us, and the two ranges never overlap. The buffer's pages are touched only as tokens come.
    """

    def _allocate(self) -> None:
        """See `_OrtDecoder`."""
        manifest, dtype = self._manifest, self._dtype
        self._row = (manifest.num_kv_heads, manifest.head_dim)
        self._row_bytes = manifest.num_kv_heads * manifest.head_dim * dtype.itemsize
        self._buffers = {name: self._buffer(np.empty((manifest.context_len, *self._row), dtype)) for name in self._cache_names}

    def _forget(self) -> None:
        """Does nothing: rows behind the past are not bound."""

    def _bind_cache(self, binding: ort.IOBinding, past: int, count: int) -> None:
        for name, buffer in self._buffers.items():
            start, dtype = buffer.data_ptr(), self._dtype.type
            binding.bind_input(f"past_{name}", self._device, 0, dtype, (past, *self._row), start)
            behind = start + past * self._row_bytes
            binding.bind_output(f"new_{name}", self._device, 0, dtype, (count, *self._row), behind)


class ScatterDecoder(_OrtDecoder):
    """The opset-24 cache: [1, K, C, E] per layer and part, updated in place by TensorScatter.

    The buffer is input and output at one address. Attention computes over the whole of it, so it grows in buckets: it
    doubles, and its content moves, when a prompt or an answer outgrows it.
    """

    def _allocate(self) -> None:
        """See `_OrtDecoder`."""
        self._buffers: dict[str, ort.OrtValue] = {}
        self._capacity = 0
        self._reserve(min(_FIRST_BUCKET, self._manifest.context_len), keep=0)

    @property
    def _shape(self) -> tuple[int, int, int, int]:
        return (1, self._manifest.num_kv_heads, self._capacity, self._manifest.head_dim)

    def _bind_cache(self, binding: ort.IOBinding, past: int, count: int) -> None:
        self._reserve(past + count, keep=past)
        for name, buffer in self._buffers.items():
            place = (self._device, 0, self._dtype.type, self._shape, buffer.data_ptr())
            binding.bind_input(f"past_{name}", *place)
            binding.bind_output(f"new_{name}", *place)

    def _forget(self) -> None:
        """Makes all of it anew."""
        for name in self._cache_names:
            self._buffers[name] = self._buffer(np.zeros(self._shape, self._dtype))

    def _reserve(self, length: int, *, keep: int) -> None:
        """Makes room for `length` tokens, keeping the first `keep`. New room is zeroed: masked values must be finite."""
        if length <= self._capacity:
            return
        self._capacity = grown_capacity(length, self._manifest.context_len)
        for name in self._cache_names:
            grown = np.zeros(self._shape, self._dtype)
            if keep:
                grown[:, :, :keep] = self._buffers[name].numpy()[:, :, :keep]
            self._buffers[name] = self._buffer(grown)


class SharedDecoder(_OrtDecoder):
    """The CPU form's cache: [1, K, C, E] per layer and part, input and output at one address.

    Attention reads no further than the tokens that there are, so the buffer has the context's whole length from the start; its
    pages are touched only as tokens come.
    """

    def _allocate(self) -> None:
        """See `_OrtDecoder`."""
        manifest, dtype = self._manifest, self._dtype
        self._shape = (1, manifest.num_kv_heads, manifest.context_len, manifest.head_dim)
        self._buffers = {name: self._buffer(np.empty(self._shape, dtype)) for name in self._cache_names}

    def _forget(self) -> None:
        """Does nothing: rows behind the last token are not read."""

    def _bind_cache(self, binding: ort.IOBinding, past: int, count: int) -> None:
        for name, length in (("seqlens_k", past + count - 1), ("total_len", past + count)):
            binding.bind_cpu_input(name, np.array([length], np.int32))
        for name, buffer in self._buffers.items():
            place = (self._device, 0, self._dtype.type, self._shape, buffer.data_ptr())
            binding.bind_input(f"past_{name}", *place)
            binding.bind_output(f"new_{name}", *place)
