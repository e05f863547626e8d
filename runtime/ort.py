"""onnxruntime: sessions, and a bundle in them. Beside `ort_decoder`, the only importer of onnxruntime.

Three engines are one but for the execution provider: on the CPU, on CUDA, and TensorRT behind onnxruntime. What goes from graph
to graph passes through the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from leo_edge.runtime.backend import Array, Decoder, Session, Tensor
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.errors import BackendError, BundleError, first_line
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.huge_pages import use_huge_pages
from leo_edge.runtime.manifest import GraphSpec
from leo_edge.runtime.ort_decoder import PrefixDecoder, ScatterDecoder, SharedDecoder
from leo_edge.runtime.tiles import TileBatch, TilingConfig

_ORT_TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "uint8": "tensor(uint8)",
    "int8": "tensor(int8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
}
_CPU_INFO = Path("/proc/cpuinfo")
_CPU = "CPUExecutionProvider"
# From which on a graph's weights are worth huge pages: those of fewer stay in the CPU's caches.
_MANY_PARAMETERS = 1 << 23
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
        spinning: bool = True,
        huge_pages: bool = True,
    ) -> None:
        """Loads the graph; `threads` 0 leaves the number to onnxruntime. `model` is run in place of the file, with its weights.

        `int8` says that the graph is quantized: onnxruntime must not make a Gemm of a product and a residual sum before it
        finds the product's Q/DQ, which it then computes in float. `backend` is one of `ort`, `ort-cuda` and `ort-trt`.
        `spinning` lets workers spin while a graph runs, and not between two runs; `huge_pages` is about the weights' memory.

        Raises:
            BackendError: onnxruntime refuses the graph.
            BundleError: the graph's inputs or outputs are not those of the manifest.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Workers that sleep between the nodes of a graph are late for most of them; those that spin between graphs starve
        # whatever else the vehicle computer does.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.add_session_config_entry("session.force_spinning_stop", "1")
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
            raise BackendError(f"onnxruntime {ort.__version__} cannot load {path}: {first_line(error)}") from None
        if self.session.get_providers()[0] != provider:  # it goes on with the CPU alone, with a warning in its log
            raise BackendError(
                f"onnxruntime {ort.__version__} cannot start {provider} here: see its log, or take --backend ort"
            )
        self._check_ports(path, spec)
        if huge_pages and provider == _CPU and spec.num_parameters >= _MANY_PARAMETERS:
            use_huge_pages()
        self._outputs = [port.name for port in spec.outputs]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Array]:
        """Runs the graph on named arrays and returns its named outputs.

        Raises:
            BackendError: onnxruntime refuses.
        """
        try:
            return dict(zip(self._outputs, self.session.run(self._outputs, dict(inputs)), strict=True))
        except Exception as error:
            raise BackendError(f"onnxruntime failed: {first_line(error)}") from error

    def _check_ports(self, path: Path, spec: GraphSpec) -> None:
        for ports, found in ((spec.inputs, self.session.get_inputs()), (spec.outputs, self.session.get_outputs())):
            wanted = [(port.name, _ORT_TYPES.get(port.dtype, port.dtype), list(port.shape)) for port in ports]
            got = [(port.name, port.type, list(port.shape)) for port in found]
            if wanted != got:
                differing = [f"{a} is not {b}" for a, b in zip(got, wanted, strict=False) if a != b] or ["their number differs"]
                raise BundleError(f"{path.name} does not fit the manifest: {differing[0]}: export the bundle again")


class OrtEngine:
    """A bundle in onnxruntime."""

    def __init__(
        self,
        bundle: Bundle,
        table: EmbeddingTable,
        *,
        backend: str = "ort",
        threads: int = 0,
        note: str = "",
        standard_graphs: bool = False,
    ) -> None:
        """Loads all graphs; `backend` is one of `ort`, `ort-cuda` and `ort-trt`. `note` is said with what runs.

        On the CPU graphs run in their CPU forms where the bundle has these, unless `standard_graphs` says no.

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
        forms = {} if standard_graphs or backend != "ort" else bundle.manifest.cpu_forms
        self.sessions: Mapping[str, Session] = {
            name: _open_session(bundle, forms.get(name, spec), threads=threads, backend=backend)
            for name, spec in bundle.manifest.graphs.items()
            if name not in ("llm", "tiles")
        }
        self.decoder: Decoder = open_decoder(bundle, table, threads=threads, backend=backend, standard_graph="llm" not in forms)

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
    bundle: Bundle,
    table: EmbeddingTable,
    *,
    threads: int = 0,
    model: bytes | None = None,
    spec: GraphSpec | None = None,
    backend: str = "ort",
    standard_graph: bool = False,
    spinning: bool = True,
    huge_pages: bool = True,
) -> Decoder:
    """Loads a bundle's language model, on the CPU in its CPU form; `model` is run in place of its file, with its weights.

    `spec` says the ports of a `model` where they are not the standard graph's.

    Raises:
        BackendError: onnxruntime refuses the graph.
        BundleError: the graph does not fit the manifest.
    """
    manifest = bundle.manifest
    standard = standard_graph or backend != "ort" or model is not None or "llm" not in manifest.cpu_forms
    spec = spec or (manifest.graphs["llm"] if standard else manifest.cpu_forms["llm"])
    session = _open_session(
        bundle, spec, threads=threads, model=model, backend=backend, spinning=spinning, huge_pages=huge_pages
    )
    # INT8 in a bundle whose cache is quantized, else the float type.
    dtype = np.dtype(next(port.dtype for port in spec.inputs if port.name.startswith("past_")))
    shared = any(port.name == "seqlens_k" for port in spec.inputs)
    kind = SharedDecoder if shared else PrefixDecoder if manifest.decoder.cache == "prefix" else ScatterDecoder
    try:
        return kind(session.session, session.device, manifest.decoder, table, dtype)
    except (MemoryError, ValueError) as error:  # numpy's words for too large an array
        raise BackendError(
            f"no memory for the cache of {manifest.decoder.context_len} tokens ({error}): export with a smaller --context-len"
        ) from None


def _open_session(
    bundle: Bundle,
    spec: GraphSpec,
    *,
    threads: int,
    backend: str,
    model: bytes | None = None,
    spinning: bool = True,
    huge_pages: bool = True,
) -> OrtSession:
    return OrtSession(
        bundle.path(spec.file),
        spec,
        threads=threads,
        int8=bundle.manifest.quantized,
        model=model,
        backend=backend,
        spinning=spinning,
        huge_pages=huge_pages,
    )


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
