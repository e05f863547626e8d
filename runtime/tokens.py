"""What the vision experts made of a frame set: the part of the work that does not depend on the question.

Shape letters: T tiles of one camera, N tokens per tile, d width of an expert, D hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leo_edge.runtime.backend import Tensor
from leo_edge.runtime.spans import Span


@dataclass(frozen=True)
class CameraTokens:
    """One camera's tokens by expert, [T, N, d] each, and the stamp of the frame that they came from.

    `fused` [T * N, D] is there where the fusion does not depend on the question.
    """

    channel: str
    stamp_ns: int
    by_expert: Mapping[str, Tensor]
    fused: Tensor | None = None

    @property
    def num_tiles(self) -> int:
        """How many tiles the camera's image was cut into."""
        return len(next(iter(self.by_expert.values())))


@dataclass(frozen=True)
class VisualTokens:
    """The encoded cameras in prompt order. `spans` tells where the time went."""

    cameras: tuple[CameraTokens, ...]
    missing: tuple[str, ...]
    stamp_ns: int
    spans: tuple[Span, ...]


# For a question about no image at all.
NO_IMAGES = VisualTokens((), (), 0, ())
