"""onnxruntime: sessions, and the language model's cache for both graph levels. The only importer of onnxruntime.

Shape letters: S new tokens, P past tokens, K key-value heads, E head width, C cache capacity, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from leo_edge.runtime.backend import Array, FloatArray, Logits
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.errors import BackendError, BundleError, ContextOverflowError
from leo_edge.runtime.manifest import DecoderManifest, GraphSpec

_ORT_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "uint8": "tensor(uint8)",
    "int8": "tensor(int8)",
    "int64": "tensor(int64)",
}
_CPU_INFO = Path("/proc/cpuinfo")
_FIRST_BUCKET = 256
_PREFILL_ROWS = 512


def describe_backend() -> str:
    """Names the engine, its version and where it runs."""
    return f"onnxruntime {ort.__version__} cpu"


class OrtSession:
    """A graph in onnxruntime on the CPU."""

    def __init__(
        self, path: Path, spec: GraphSpec, *, threads: int = 0, int8: bool = False, model: bytes | None = None
    ) -> None:
        """Loads the graph; `threads` 0 leaves the number to onnxruntime. `model` is run in place of the file, with its weights.

        `int8` says that the graph is quantized: onnxruntime must not make a Gemm of a product and a residual sum before it
        finds the product's Q/DQ, which it then computes in float.

        Raises:
            BackendError: onnxruntime refuses the graph.
            BundleError: the graph's inputs or outputs are not those of the manifest.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Spinning workers starve whatever else the vehicle computer does, and gain nothing between graphs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if _saturates(_CPU_INFO):
            # AVX2 adds pairs of u8 x s8 products in 16 bits, which overflow: 10 % off on full-range weights. This is exact.
            options.add_session_config_entry("session.x64quantprecision", "1")
        if model is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
        try:
            self.session = ort.InferenceSession(
                model or str(path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["MatMulAddFusion"] if int8 else None,
            )
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors share no base class but Exception
            raise BackendError(f"onnxruntime {ort.__version__} cannot load {path}: {_first_line(error)}") from None
        self._check_ports(path, spec)
        self._outputs = [port.name for port in spec.outputs]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the graph on named arrays and returns its named outputs.

        Raises:
            BackendError: onnxruntime refuses.
        """
        try:
            return dict(zip(self._outputs, self.session.run(self._outputs, dict(inputs)), strict=True))
        except Exception as error:
            raise BackendError(f"onnxruntime failed: {_first_line(error)}") from error

    def _check_ports(self, path: Path, spec: GraphSpec) -> None:
        for ports, found in ((spec.inputs, self.session.get_inputs()), (spec.outputs, self.session.get_outputs())):
            wanted = [(port.name, _ORT_TYPES.get(port.dtype, port.dtype), list(port.shape)) for port in ports]
            got = [(port.name, port.type, list(port.shape)) for port in found]
            if wanted != got:
                differing = [f"{a} is not {b}" for a, b in zip(got, wanted, strict=False) if a != b] or ["their number differs"]
                raise BundleError(f"{path.name} does not fit the manifest: {differing[0]}: export the bundle again")


class _OrtDecoder(ABC):
    """A language model in onnxruntime; the two kinds differ in how they keep and bind the cache."""

    def __init__(self, session: OrtSession, manifest: DecoderManifest, table: EmbeddingTable, dtype: np.dtype[Any]) -> None:
        self._session, self._table = session.session, table
        self._manifest, self._dtype = manifest, dtype
        self._cache_names = [f"{part}.{i}" for part in ("key", "value") for i in range(manifest.num_layers)]
        self._logits = np.empty(manifest.vocab_size, np.float32)
        self._routing: dict[str, Array] = {}
        self._length = 0

    @property
    def context_len(self) -> int:
        """The most tokens that fit the cache."""
        return self._manifest.context_len

    def prefill(self, embeds: FloatArray, routing: Mapping[str, Array]) -> Logits:
        """See `Decoder`."""
        self._routing = {name: np.ascontiguousarray(array) for name, array in routing.items()}
        self._length = 0
        self._forget()
        # Piece by piece: attention's scores take rows x context, which for a whole prompt of many cameras is gigabytes.
        for start in range(0, len(embeds), _PREFILL_ROWS):
            logits = self._run(embeds[start : start + _PREFILL_ROWS])
        return logits

    def step(self, token_id: int) -> Logits:
        """See `Decoder`."""
        return self._run(self._table.lookup(np.array([token_id])))

    def _run(self, embeds: FloatArray) -> Logits:
        """Takes embeds [S, D] behind what is in the cache."""
        past, count = self._length, len(embeds)
        if past + count > self.context_len:
            raise ContextOverflowError(
                f"{past + count} tokens do not fit the context of {self.context_len}: use fewer cameras or tiles, "
                f"or export again with --context-len {past + count}"
            )
        positions = np.arange(past, past + count, dtype=np.int64)
        binding = self._session.io_binding()
        try:
            for name, array in {"embeds": np.ascontiguousarray(embeds), "positions": positions, **self._routing}.items():
                binding.bind_cpu_input(name, array)
            binding.bind_output("logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data)
            self._bind_cache(binding, past, count)
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise BackendError(f"onnxruntime failed: {_first_line(error)}") from error
        self._length += count
        return self._logits.copy()

    @abstractmethod
    def _forget(self) -> None:
        """Prepares the cache for another prompt."""

    @abstractmethod
    def _bind_cache(self, binding: ort.IOBinding, past: int, count: int) -> None:
        """Binds `past` tokens as input and the place of `count` new ones as output, for every layer's keys and values."""


class PrefixDecoder(_OrtDecoder):
    """The opset-20 cache: token-major [C, K, E] per layer and part.

    The past goes in as a prefix of one buffer, bound by address, and the graph writes the new rows right behind it: no copy
    by us, and the two ranges never overlap. The buffer's pages are touched only as tokens come.
    """

    def __init__(self, session: OrtSession, manifest: DecoderManifest, table: EmbeddingTable, dtype: np.dtype[Any]) -> None:
        super().__init__(session, manifest, table, dtype)
        shape = (manifest.context_len, manifest.num_kv_heads, manifest.head_dim)
        self._buffers = {name: np.empty(shape, dtype) for name in self._cache_names}

    def _forget(self) -> None:
        """Does nothing: rows behind the past are not bound."""

    def _bind_cache(self, binding: ort.IOBinding, past: int, count: int) -> None:
        for name, buffer in self._buffers.items():
            start, row = buffer.ctypes.data, buffer.shape[1:]
            binding.bind_input(f"past_{name}", "cpu", 0, self._dtype.type, (past, *row), start)
            binding.bind_output(f"new_{name}", "cpu", 0, self._dtype.type, (count, *row), start + past * buffer.strides[0])


class ScatterDecoder(_OrtDecoder):
    """The opset-24 cache: [1, K, C, E] per layer and part, updated in place by TensorScatter.

    The buffer is input and output at one address. Attention computes over the whole of it, so it grows in buckets: it
    doubles, and its content moves, when a prompt or an answer outgrows it.
    """

    def __init__(self, session: OrtSession, manifest: DecoderManifest, table: EmbeddingTable, dtype: np.dtype[Any]) -> None:
        super().__init__(session, manifest, table, dtype)
        self._buffers: dict[str, FloatArray] = {}
        self._reserve(min(_FIRST_BUCKET, manifest.context_len), keep=0)

    def _bind_cache(self, binding: ort.IOBinding, past: int, count: int) -> None:
        self._reserve(past + count, keep=past)
        for name, buffer in self._buffers.items():
            place = ("cpu", 0, self._dtype.type, buffer.shape, buffer.ctypes.data)
            binding.bind_input(f"past_{name}", *place)
            binding.bind_output(f"new_{name}", *place)

    def _forget(self) -> None:
        """Zeroes what another prompt left: behind a shorter one it is masked, but not if it is not finite."""
        for buffer in self._buffers.values():
            buffer.fill(0)

    def _reserve(self, length: int, *, keep: int) -> None:
        """Makes room for `length` tokens, keeping the first `keep`. New room is zeroed: masked values must be finite."""
        capacity = next(iter(self._buffers.values())).shape[2] if self._buffers else 0
        if length <= capacity:
            return
        capacity = max(capacity, _FIRST_BUCKET)
        while capacity < length:
            capacity *= 2
        capacity = min(capacity, self._manifest.context_len)
        shape = (1, self._manifest.num_kv_heads, capacity, self._manifest.head_dim)
        for name in self._cache_names:
            grown = np.zeros(shape, self._dtype)
            if keep:
                grown[:, :, :keep] = self._buffers[name][:, :, :keep]
            self._buffers[name] = grown


def open_decoder(
    bundle: Bundle, table: EmbeddingTable, *, threads: int = 0, model: bytes | None = None
) -> PrefixDecoder | ScatterDecoder:
    """Loads a bundle's language model; `model` is run in place of its file, with its weights.

    Raises:
        BackendError: onnxruntime refuses the graph.
        BundleError: the graph does not fit the manifest.
    """
    manifest = bundle.manifest
    spec = manifest.graphs["llm"]
    session = OrtSession(bundle.path(spec.file), spec, threads=threads, int8=manifest.quantized, model=model)
    # INT8 in a bundle whose cache is quantized, else the float type.
    dtype = np.dtype(next(port.dtype for port in spec.inputs if port.name.startswith("past_")))
    kind = PrefixDecoder if manifest.decoder.cache == "prefix" else ScatterDecoder
    try:
        return kind(session, manifest.decoder, table, dtype)
    except (MemoryError, ValueError) as error:  # numpy's words for too large an array
        raise BackendError(
            f"no memory for the cache of {manifest.decoder.context_len} tokens ({error}): export with a smaller --context-len"
        ) from None


def _saturates(cpu_info: Path) -> bool:
    """Whether INT8 products overflow in onnxruntime's fast kernels: on an x86 CPU without VNNI."""
    try:
        flags = cpu_info.read_text(encoding="ascii", errors="replace").lower()
    except OSError:
        return False
    return "avx2" in flags and "vnni" not in flags


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
