"""onnxruntime-genai on a model of its own builder; see `protocol.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
from protocol import llm_arguments, serve_llm


class GenaiEngine:
    """A generator that is rewound for each prompt."""

    def __init__(self, directory: Path, *, threads: int, max_len: int) -> None:
        config = og.Config(str(directory))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        self._model = og.Model(config)
        self._params = og.GeneratorParams(self._model)
        self._params.set_search_options(max_length=max_len, do_sample=False)
        self._generator = og.Generator(self._model, self._params)

    def prefill(self, ids: list[int]) -> Any:
        """See `LlmEngine`."""
        self._generator.rewind_to(0)
        return self._append(ids)

    def step(self, token_id: int) -> Any:
        """See `LlmEngine`."""
        return self._append([token_id])

    def _append(self, ids: list[int]) -> Any:
        self._generator.append_tokens(np.array([ids], np.int32))
        return np.asarray(self._generator.get_logits()).ravel()


def main() -> None:
    """Serves."""
    args = llm_arguments(__doc__, "a folder of its builder").parse_args()
    engine = GenaiEngine(args.model, threads=args.threads, max_len=args.prompt + args.answer + 32)
    serve_llm(engine, args)


if __name__ == "__main__":
    main()
