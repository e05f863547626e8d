"""What the pipeline asks of an inference engine: small protocols, each engine implementing them in a file or two.

What goes from graph to graph stays where the engine works: a `Tensor` is numpy's array, or a `DeviceArray`, which has the same
shape, dtype, reshape and slices of rows, and which numpy takes. (It is stated as Any: with a union, every reader of what
onnxruntime gives, which is numpy's, would have to tell them apart.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.tiles import TileBatch, TilingConfig

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.floating[Any]]
Logits = npt.NDArray[np.float32]  # [V], or [n, V] of several tokens
Tensor: TypeAlias = Any


class Session(Protocol):
    """A graph that is ready to run."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the graph on named arrays and returns its named outputs, which are complete.

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

    @property
    def length(self) -> int:
        """How many tokens are in the cache."""
        ...

    @property
    def label(self) -> object:
        """What the prompt in the cache was called when it was taken."""
        ...

    def prefill(self, embeds: Tensor, routing: Mapping[str, Tensor], *, keep: int = 0, label: object = None) -> Logits:
        """Takes a prompt [S, D], called `label`, and returns the logits [V] after its last token.

        `routing` holds the inputs that stay the same while the answer is decoded (MMoE). The first `keep` tokens, fewer than S,
        are in the cache already, from the same embeddings and routing; whatever else was in it is forgotten.

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

    def extend(self, token_ids: Sequence[int]) -> Logits:
        """Appends tokens and returns the logits [n, V] after each of them, all in one run.

        Raises:
            ContextOverflowError: the cache is full.
            BackendError: the engine refuses.
        """
        ...

    def rewind(self, length: int) -> None:
        """Forgets all but the first `length` tokens."""
        ...


class Engine(Protocol):
    """A bundle's graphs in an inference engine."""

    @property
    def description(self) -> str:
        """Names the engine, its version, where it runs, and what it had to do without."""
        ...

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The graphs but the language model, by name. `tiles` is there where the engine cuts tiles itself."""
        ...

    @property
    def decoder(self) -> Decoder:
        """The language model."""
        ...

    def tiles_per_run(self, graph: str, /) -> int:
        """How many tiles a vision expert's graph takes at once."""
        ...

    def cut(self, frame_set: FrameSet, tiling: TilingConfig) -> TileBatch:
        """Cuts the frames of all cameras into tiles, where the experts will look for them."""
        ...

    def upload(self, array: Array) -> Tensor:
        """Puts an array where the engine works."""
        ...

    def concatenate(self, arrays: Sequence[Tensor]) -> Tensor:
        """Puts arrays one behind the other, along their first axis."""
        ...


def check_kept(keep: int, length: int, num_rows: int) -> None:
    """Checks what `Decoder.prefill` is told to keep of `length` cached tokens, for a prompt of `num_rows`.

    Raises:
        ValueError: more than there is, or nothing is left to compute.
    """
    if not 0 <= keep <= length or keep >= num_rows:
        raise ValueError(f"keep must be 0 to {length}, and less than the prompt's {num_rows} tokens, got {keep}")


def check_rewound(wanted: int, length: int) -> None:
    """Checks what `Decoder.rewind` is told.

    Raises:
        ValueError: there are fewer tokens.
    """
    if not 0 <= wanted <= length:
        raise ValueError(f"cannot rewind to {wanted} of {length} tokens")
