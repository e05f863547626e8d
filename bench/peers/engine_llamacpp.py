"""llama.cpp on a GGUF file, by its own functions in llama-cpp-python; see `protocol.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from protocol import llm_arguments, serve_llm

_BATCH = 512  # llama.cpp's own default for a piece of a prompt


class LlamaCppEngine:
    """A context whose cache is cleared for each prompt."""

    def __init__(self, path: Path, *, threads: int, max_len: int) -> None:
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = max_len, _BATCH, _BATCH
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def prefill(self, ids: list[int]) -> Any:
        """See `LlmEngine`."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        return self._append(ids)

    def step(self, token_id: int) -> Any:
        """See `LlmEngine`."""
        return self._append([token_id])

    def _append(self, ids: list[int]) -> Any:
        for start in range(0, len(ids), _BATCH):
            piece = ids[start : start + _BATCH]
            tokens = (llama_cpp.llama_token * len(piece))(*piece)
            failed = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(tokens, len(piece)))
            if failed:
                raise RuntimeError(f"llama_decode returned {failed}")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, -1), (self._vocab_size,)).copy()


def main() -> None:
    """Serves."""
    args = llm_arguments(__doc__, "a GGUF file").parse_args()
    serve_llm(LlamaCppEngine(args.model, threads=args.threads, max_len=args.prompt + args.answer + 32), args)


if __name__ == "__main__":
    main()
