"""Answers kept in a file: what the model card's figures were counted from, to hold later answers against."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from leo_edge.demo.scoring import Answers, SplitOptions
from leo_edge.runtime.errors import DatasetError

SHIPPED = Path(__file__).parent / "checkpoint"
"""The trained checkpoint that comes with leo_edge."""
CARD_ANSWERS = SHIPPED / "answers.json"
"""Its answers to the val questions, in torch."""


@dataclass(frozen=True)
class AnswerFile:
    """The answers to a split's questions, and which questions those are."""

    options: SplitOptions
    answers: Answers

    def write(self, path: Path) -> None:
        """Writes the file."""
        path.write_text(json.dumps(asdict(self), indent=0) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> AnswerFile:
        """Reads a file that `write` wrote.

        Raises:
            DatasetError: it is not there, or something else.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            own, blind = ([str(text) for text in raw["answers"][name]] for name in ("own", "blind"))
            return cls(SplitOptions(**raw["options"]), Answers(tuple(own), tuple(blind)))
        except FileNotFoundError:
            raise DatasetError(
                f"no file of answers {path}: write one with `leo-edge demo score MODEL --answers FILE`"
            ) from None
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise DatasetError(f"{path} is no file of answers ({error}): write it anew with --answers") from error

    def require_same_questions(self, options: SplitOptions, path: Path) -> None:
        """Checks that these answers are to the questions of `options`.

        Raises:
            DatasetError: they are to others.
        """
        if self.options != options:
            raise DatasetError(f"{path} answers the questions of {self.options}, expected {options}: give the same options")
