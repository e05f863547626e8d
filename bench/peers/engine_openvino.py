"""OpenVINO on a stateful model, as OpenVINO GenAI's LLMPipeline runs it, token by token; see `protocol.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from protocol import llm_arguments, serve_llm


class OpenVinoEngine:
    """An infer request whose state is the cache."""

    def __init__(self, directory: Path, *, threads: int, precision: str | None) -> None:
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if precision:
            options |= {"INFERENCE_PRECISION_HINT": precision}
        if precision == "f32":
            options |= {"KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
        compiled = ov.Core().compile_model(str(directory / "openvino_model.xml"), "CPU", options)
        self._request = compiled.create_infer_request()
        self._length = 0

    def prefill(self, ids: list[int]) -> Any:
        """See `LlmEngine`."""
        self._request.reset_state()
        self._length = 0
        return self._append(ids)

    def step(self, token_id: int) -> Any:
        """See `LlmEngine`."""
        return self._append([token_id])

    def _append(self, ids: list[int]) -> Any:
        start, self._length = self._length, self._length + len(ids)
        self._request.infer(
            {
                "input_ids": np.array([ids], np.int64),
                "attention_mask": np.ones((1, self._length), np.int64),
                "position_ids": np.arange(start, self._length, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        return self._request.get_output_tensor(0).data.ravel()


def main() -> None:
    """Serves."""
    parser = llm_arguments(__doc__, "a folder with openvino_model.xml")
    parser.add_argument("--precision", choices=("f32", "bf16"), help="of the computation (default: OpenVINO's choice)")
    args = parser.parse_args()
    serve_llm(OpenVinoEngine(args.model, threads=args.threads, precision=args.precision), args)


if __name__ == "__main__":
    main()
