"""What the pipeline asks of an inference engine: two small protocols, each engine implementing them in one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating[Any]]
Logits = npt.NDArray[np.float32]


class Session(Protocol):
    """A graph that is ready to run."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the graph on named arrays and returns its named outputs.

        Raises:
            BackendError: the engine refuses.
        """
        ...


class Decoder(Protocol):
    """A language model with its cache, for one prompt at a time."""

    @property
    def context_len(self) -> int:
        """The most tokens, prompt and answer together, that fit the cache."""
        ...

    def prefill(self, embeds: FloatArray, routing: Mapping[str, Array]) -> Logits:
        """Forgets what came before, takes a prompt [S, D] and returns the logits [V] after its last token.

        `routing` holds the inputs that stay the same while the answer is decoded (MMoE).

        Raises:
            ContextOverflowError: S exceeds the context.
            BackendError: the engine refuses.
        """
        ...

    def step(self, token_id: int) -> Logits:
        """Appends a token and returns the logits [V] after it.

        Raises:
            ContextOverflowError: the cache is full.
            BackendError: the engine refuses.
        """
        ...
