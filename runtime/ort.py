"""onnxruntime: sessions, and the language model's cache for both graph levels. The only importer of onnxruntime.

Three engines are one but for the execution provider: on the CPU, on CUDA, and TensorRT behind onnxruntime. The language model's
cache lies where the provider works and is bound by address; what goes from graph to graph passes through the host.

Shape letters: S new tokens, P past tokens, K key-value heads, E head width, C cache capacity, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from leo_edge.runtime.backend import Array, Decoder, Logits, Session, Tensor
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.errors import BackendError, BundleError, ContextOverflowError
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.manifest import DecoderManifest, GraphSpec
from leo_edge.runtime.tiles import TileBatch, TilingConfig

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
_CPU = "CPUExecutionProvider"
# By the name of the backend: the execution provider, its device, its options. fp32 means fp32: no TF32.
_PROVIDERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "ort": (_CPU, "cpu", {}),
    "ort-cuda": ("CUDAExecutionProvider", "cuda", {"use_tf32": "0"}),
    "ort-trt": (
        "TensorrtExecutionProvider",
        "cuda",
        {"trt_fp16_enable": "1", "trt_int8_enable": "1", "trt_engine_cache_enable": "1"},
    ),
}


def providers() -> list[str]:
    """Names the execution providers of this onnxruntime; that its device is here too, only a session tells."""
    return list(ort.get_available_providers())


def describe_backend(backend: str = "ort") -> str:
    """Names the engine, its version and where it runs."""
    return f"onnxruntime {ort.__version__} {'tensorrt' if backend == 'ort-trt' else _PROVIDERS[backend][1]}"


class OrtSession:
    """A graph in onnxruntime."""

    def __init__(
        self,
        path: Path,
        spec: GraphSpec,
        *,
        threads: int = 0,
        int8: bool = False,
        model: bytes | None = None,
        backend: str = "ort",
    ) -> None:
        """Loads the graph; `threads` 0 leaves the number to onnxruntime. `model` is run in place of the file, with its weights.

        `int8` says that the graph is quantized: onnxruntime must not make a Gemm of a product and a residual sum before it
        finds the product's Q/DQ, which it then computes in float. `backend` is one of `ort`, `ort-cuda` and `ort-trt`.

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
        provider, self.device, _ = _PROVIDERS[backend]
        try:
            self.session = ort.InferenceSession(
                model or str(path),
                options,
                providers=_providers(backend, path.parent),
                disabled_optimizers=["MatMulAddFusion"] if int8 else None,
            )
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors share no base class but Exception
            raise BackendError(f"onnxruntime {ort.__version__} cannot load {path}: {_first_line(error)}") from None
        if self.session.get_providers()[0] != provider:  # it goes on with the CPU alone, with a warning in its log
            raise BackendError(
                f"onnxruntime {ort.__version__} cannot start {provider} here: see its log, or take --backend ort"
            )
        self._check_ports(path, spec)
        self._outputs = [port.name for port in spec.outputs]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
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
        self._session, self._table, self._device = session.session, table, session.device
        self._manifest, self._dtype = manifest, dtype
        self._cache_names = [f"{part}.{i}" for part in ("key", "value") for i in range(manifest.num_layers)]
        self._logits = np.zeros(manifest.vocab_size, np.float32)
        self._routing: dict[str, Array] = {}
        self._length = 0

    @property
    def context_len(self) -> int:
        """The most tokens that fit the cache."""
        return self._manifest.context_len

    def prefill(self, embeds: Tensor, routing: Mapping[str, Tensor]) -> Logits:
        """See `Decoder`."""
        self._routing = {name: np.ascontiguousarray(array) for name, array in routing.items()}
        self._length = 0
        if not np.isfinite(self._logits).all():
            self._forget()
        # Piece by piece: attention's scores take rows x context, which for a whole prompt of many cameras is gigabytes.
        for start in range(0, len(embeds), _PREFILL_ROWS):
            logits = self._run(embeds[start : start + _PREFILL_ROWS])
        return logits

    def step(self, token_id: int) -> Logits:
        """See `Decoder`."""
        return self._run(self._table.lookup(np.array([token_id])))

    def _run(self, embeds: Tensor) -> Logits:
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

    def _buffer(self, content: Array) -> ort.OrtValue:
        """Returns a cache where the provider works; on the CPU it is `content` itself, without a copy."""
        return ort.OrtValue.ortvalue_from_numpy(content, self._device, 0)

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

    def __init__(self, session: OrtSession, manifest: DecoderManifest, table: EmbeddingTable, dtype: np.dtype[Any]) -> None:
        super().__init__(session, manifest, table, dtype)
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

    def __init__(self, session: OrtSession, manifest: DecoderManifest, table: EmbeddingTable, dtype: np.dtype[Any]) -> None:
        super().__init__(session, manifest, table, dtype)
        self._buffers: dict[str, ort.OrtValue] = {}
        self._capacity = 0
        self._reserve(min(_FIRST_BUCKET, manifest.context_len), keep=0)

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
        capacity = max(self._capacity, _FIRST_BUCKET)
        while capacity < length:
            capacity *= 2
        self._capacity = min(capacity, self._manifest.context_len)
        for name in self._cache_names:
            grown = np.zeros(self._shape, self._dtype)
            if keep:
                grown[:, :, :keep] = self._buffers[name].numpy()[:, :, :keep]
            self._buffers[name] = self._buffer(grown)


class OrtEngine:
    """A bundle in onnxruntime."""

    def __init__(
        self, bundle: Bundle, table: EmbeddingTable, *, backend: str = "ort", threads: int = 0, note: str = ""
    ) -> None:
        """Loads all graphs; `backend` is one of `ort`, `ort-cuda` and `ort-trt`. `note` is said with what runs.

        Raises:
            BackendError: this onnxruntime has no such provider, or refuses a graph.
            BundleError: a graph does not fit the manifest.
        """
        provider = _PROVIDERS[backend][0]
        if provider not in providers():
            raise BackendError(
                f"onnxruntime {ort.__version__} has no {provider} (it has {', '.join(providers())}): "
                "in place of onnxruntime, pip install 'leo_edge[ort-gpu]'"
            )
        self.description = describe_backend(backend) + (f" ({note})" if note else "")
        manifest = bundle.manifest
        self.sessions: Mapping[str, Session] = {
            name: OrtSession(bundle.path(spec.file), spec, threads=threads, int8=manifest.quantized, backend=backend)
            for name, spec in manifest.graphs.items()
            if name not in ("llm", "tiles")
        }
        self.decoder: Decoder = open_decoder(bundle, table, threads=threads, backend=backend)

    def cut(self, frame_set: FrameSet, tiling: TilingConfig) -> TileBatch:
        """Cuts the frames on the host: PIL is faster than any graph there."""
        return TileBatch.from_frames(frame_set, tiling)

    def tiles_per_run(self, _graph: str, /) -> int:
        """One: batching gains nothing on a CPU, and work can be given up between two."""
        return 1

    def upload(self, array: Array) -> Array:
        """Returns the array: what goes from graph to graph is on the host."""
        return array

    def concatenate(self, arrays: Sequence[Tensor]) -> Array:
        """Puts arrays one behind the other, along their first axis."""
        return np.concatenate([np.asarray(array) for array in arrays])


def open_decoder(
    bundle: Bundle, table: EmbeddingTable, *, threads: int = 0, model: bytes | None = None, backend: str = "ort"
) -> PrefixDecoder | ScatterDecoder:
    """Loads a bundle's language model; `model` is run in place of its file, with its weights.

    Raises:
        BackendError: onnxruntime refuses the graph.
        BundleError: the graph does not fit the manifest.
    """
    manifest = bundle.manifest
    spec = manifest.graphs["llm"]
    path = bundle.path(spec.file)
    session = OrtSession(path, spec, threads=threads, int8=manifest.quantized, model=model, backend=backend)
    # INT8 in a bundle whose cache is quantized, else the float type.
    dtype = np.dtype(next(port.dtype for port in spec.inputs if port.name.startswith("past_")))
    kind = PrefixDecoder if manifest.decoder.cache == "prefix" else ScatterDecoder
    try:
        return kind(session, manifest.decoder, table, dtype)
    except (MemoryError, ValueError) as error:  # numpy's words for too large an array
        raise BackendError(
            f"no memory for the cache of {manifest.decoder.context_len} tokens ({error}): export with a smaller --context-len"
        ) from None


def _providers(backend: str, bundle: Path) -> list[str | tuple[str, dict[str, str]]]:
    """Returns what runs a graph, with its options, and the CPU for what that does not take."""
    provider, _, options = _PROVIDERS[backend]
    if provider == _CPU:
        return [_CPU]
    if backend == "ort-trt":
        cache = bundle / "engines" / backend
        cache.mkdir(parents=True, exist_ok=True)  # it makes no parents itself
        options = options | {"trt_engine_cache_path": str(cache)}
    return [(provider, options), _CPU]


def _saturates(cpu_info: Path) -> bool:
    """Whether INT8 products overflow in onnxruntime's fast kernels: on an x86 CPU without VNNI."""
    try:
        flags = cpu_info.read_text(encoding="ascii", errors="replace").lower()
    except OSError:
        return False
    return "avx2" in flags and "vnni" not in flags


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
