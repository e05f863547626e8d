"""One side of `leo-edge bench --vs`: a bundle in the leo_edge that this Python has, another version than the one that measures.

python answer_rounds.py BUNDLE FRAMES
"""

import json
import sys
from pathlib import Path

from leo_edge.bench.frame_sets import read_frame_sets
from leo_edge.bench.measure import PipelineSubject
from leo_edge.runtime.pipeline import open_pipeline

# As `leo-edge bench` asks by itself.
QUESTION = "What should the vehicle do next, and why?"
ANSWER_TOKENS = 32


def main(bundle: Path, frames: Path) -> None:
    """Does a round for each line that is read, and writes its times."""
    subject = PipelineSubject(open_pipeline(bundle), read_frame_sets(frames), QUESTION, answer_tokens=ANSWER_TOKENS)
    for number, _ in enumerate(sys.stdin):
        times = {name: stage.ms for name, stage in subject.round(number).items()}
        print(json.dumps({"ms": times}), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
