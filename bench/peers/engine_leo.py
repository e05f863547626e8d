"""The language model of a bundle in leo_edge; see `protocol.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
from protocol import llm_arguments, serve_llm

from leo_edge.runtime.bundle import open_bundle
from leo_edge.runtime.embedding import EmbeddingTable
from leo_edge.runtime.ort import open_decoder


class LeoEngine:
    """A bundle's decoder, with routing that is all zeros where the bundle has MMoE layers."""

    def __init__(self, directory: Any, threads: int) -> None:
        bundle = open_bundle(directory)
        self._table = EmbeddingTable(bundle.path(bundle.manifest.embedding))
        self._decoder = open_decoder(bundle, self._table, threads=threads)
        inputs = {port.name: port.shape for port in bundle.manifest.graphs["llm"].inputs}
        self._routing = {}
        if "router_context" in inputs:
            context = np.zeros([int(dim) for dim in inputs["router_context"]], np.float32)
            self._routing = {"router_context": context, "use_special": np.ones(1, np.float32)}

    def prefill(self, ids: list[int]) -> Any:
        """See `LlmEngine`."""
        return self._decoder.prefill(self._table.lookup(np.array(ids)), self._routing)

    def step(self, token_id: int) -> Any:
        """See `LlmEngine`."""
        return self._decoder.step(token_id)


def main() -> None:
    """Serves."""
    args = llm_arguments(__doc__, "a bundle").parse_args()
    serve_llm(LeoEngine(args.model, args.threads), args)


if __name__ == "__main__":
    main()
