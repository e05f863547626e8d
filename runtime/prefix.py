"""How much of a prompt is in the cache already, from the question before: system text, and cameras that are still the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leo_edge.runtime.backend import Tensor
from leo_edge.runtime.prompt import Prompt


@dataclass(frozen=True, eq=False)
class CachedPrompt:
    """A prompt that a decoder's cache begins with: its tokens, and the visual embeddings [n, D] in each of its image spans."""

    token_ids: tuple[int, ...]
    image_spans: tuple[tuple[int, int], ...]
    visual: tuple[Tensor, ...]

    @classmethod
    def of(cls, prompt: Prompt, visual: Sequence[Tensor]) -> CachedPrompt:
        """Describes a prompt with what stands in its image spans."""
        return cls(tuple(prompt.token_ids), tuple(prompt.image_spans), tuple(visual))

    def common(self, other: CachedPrompt) -> int:
        """Returns how many leading tokens of `other` have the embeddings that they have here.

        Visual embeddings are the same where they are the same object: a camera that was not encoded anew keeps its own. At
        least the last token is left to be computed, since its logits are wanted.
        """
        pairs = zip(self.token_ids, other.token_ids, strict=False)
        same = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(self.token_ids), len(other.token_ids)))
        mine = dict(zip(self.image_spans, self.visual, strict=True))
        for (start, length), visual in zip(other.image_spans, other.visual, strict=True):
            if start < same and mine.get((start, length)) is not visual:
                same = start
        return min(same, len(other.token_ids) - 1)
