"""Is the quantized bundle near enough to the float one? Every stage of both is run on the same real frames and questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from leo_edge.calib.probe import Effect, Probe, effect_on, make_probe
from leo_edge.calib.similarity import cosine
from leo_edge.runtime.bundle import Bundle
from leo_edge.runtime.errors import CalibrationError
from leo_edge.runtime.frames import FrameSet
from leo_edge.runtime.pipeline import Pipeline, open_pipeline

MIN_COSINE = 0.98
MAX_KL = 0.05
"""In nats, of the next token's distribution: with a change this small, no token of likelihood above 0.66 loses its place.

Pinsker's inequality: the total variation is at most sqrt(KL / 2) = 0.16.
"""


@dataclass(frozen=True)
class StageCosine:
    """A vision expert's tokens against the float one's; `control` is the float one's own for another frame set."""

    name: str
    cosine: float
    control: float

    @property
    def passed(self) -> bool:
        """Whether it is near, and nearer than another picture's tokens."""
        return self.cosine >= MIN_COSINE and self.control < self.cosine


@dataclass(frozen=True)
class Int8Report:
    """All stages; the language model alone, on the float experts' tokens; and everything together."""

    stages: tuple[StageCosine, ...]
    llm: Effect
    together: Effect
    num_questions: int

    @property
    def passed(self) -> bool:
        """Whether every stage is near and the answers' distribution too."""
        return all(stage.passed for stage in self.stages) and max(self.llm.kl, self.together.kl) <= MAX_KL


def verify_int8(
    quantized: Bundle,
    reference: Bundle,
    asked: Sequence[tuple[Callable[[], FrameSet], Sequence[tuple[str, str | None]]]],
    say: Callable[[str], None],
) -> Int8Report:
    """Compares a quantized bundle with the float one that it was made from, on frames and questions with their truths.

    Raises:
        CalibrationError: it was made from another bundle, or there are fewer than two frame sets.
    """
    record = quantized.manifest.provenance.get("quantized")
    if not isinstance(record, dict) or record.get("from_bundle") != reference.id:
        made_from = record.get("from_bundle") if isinstance(record, dict) else None
        raise CalibrationError(
            f"{quantized.directory} was made from bundle {made_from}, {reference.directory} is {reference.id}: give that one"
        )
    if len(asked) < 2:
        raise CalibrationError(f"{len(asked)} frame set to verify on: at least 2 are needed, one is the other's control")
    exact, mine = (open_pipeline(bundle, "ort", standard_graphs=True) for bundle in (reference, quantized))
    say("asking the float bundle")
    probes = [make_probe(exact, load(), questions) for load, questions in asked]
    say("comparing the vision experts")
    stages = _stages(mine, probes)
    say("comparing the language model, then all together")
    llm, together = effect_on(mine, probes, encode=False), effect_on(mine, probes)
    return Int8Report(stages, llm, together, sum(len(probe.asked) for probe in probes))


def _stages(pipeline: Pipeline, probes: Sequence[Probe]) -> tuple[StageCosine, ...]:
    """Returns the lowest cosine of each expert over the probes, and the mean of the control."""
    experts = [expert.name for expert in pipeline.bundle.manifest.experts]
    cosines: dict[str, list[float]] = {name: [] for name in experts}
    controls: dict[str, list[float]] = {name: [] for name in experts}
    for i, probe in enumerate(probes):
        tokens, other = pipeline.encode(probe.frames), probes[i - 1].tokens
        for mine, wanted, wrong in zip(tokens.cameras, probe.tokens.cameras, other.cameras, strict=False):
            for name in experts:
                cosines[name].append(cosine(mine.by_expert[name], wanted.by_expert[name]))
                if wrong.by_expert[name].shape == wanted.by_expert[name].shape:
                    controls[name].append(cosine(wrong.by_expert[name], wanted.by_expert[name]))
    return tuple(StageCosine(f"vision.{name}", min(cosines[name]), float(np.mean(controls[name]))) for name in experts)
