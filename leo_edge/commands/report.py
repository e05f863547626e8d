"""What people read on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from leo_edge.runtime.answer import Answer
from leo_edge.runtime.tokens import VisualTokens


def latency_table(tokens: VisualTokens, answers: Sequence[Answer]) -> str:
    """Returns a table of every stage's time: once per frame set, and per question the mean over the answers."""
    rows = [("per frame set", span.name, span.duration_ms) for span in tokens.spans]
    names = dict.fromkeys(span.name for answer in answers for span in answer.spans)
    for name in names:
        times = [span.duration_ms for answer in answers for span in answer.spans if span.name == name]
        rows.append(("per question", name, sum(times) / len(times)))
    lines = [f"{'':<15}{'stage':<20}{'ms':>9}"]
    previous = ""
    for group, name, duration_ms in rows:
        lines.append(f"{group if group != previous else '':<15}{name:<20}{duration_ms:>9.1f}")
        previous = group
    total = sum(span.duration_ms for span in tokens.spans)
    asked = sum(span.duration_ms for answer in answers for span in answer.spans) / max(1, len(answers))
    lines.append(f"{'total':<15}{'frame set + answer':<20}{total + asked:>9.1f}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """Returns the text with U+FFFD for control characters but the newline: none may garble a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)
