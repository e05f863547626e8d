"""`leo-edge demo score MODEL`: exact match on the drawn world's questions, beside the majority answer and the blind model."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leo_edge.commands.progress import say
from leo_edge.runtime.errors import LeoEdgeError

if TYPE_CHECKING:
    from leo_edge.demo.answering import Answerer
    from leo_edge.demo.scoring import Answers, SplitOptions, SplitSet
    from leo_edge.replay.score import Agreement, Scores

_NUM_CONFUSIONS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a bundle (in onnxruntime), or a checkpoint (in torch)")
    parser.add_argument("--split", choices=("train", "dev", "val"), default="val", help="which scenes (default val)")
    parser.add_argument(
        "--scenes", type=int, default=150, metavar="N", help="the split's first N, 4 keyframes each (default 150)"
    )
    parser.add_argument("--per-type", type=int, default=300, metavar="N", help="questions of each type (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the world (default 0, the one that was trained in)")
    parser.add_argument("--answers", type=Path, metavar="FILE", help="write the answers to this file")
    parser.add_argument(
        "--against", metavar="FILE", help="count the answers equal to those in this file; `card` is the model card's"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="draw in N processes (default: one per core)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: its own choice)")
    parser.add_argument(
        "--max-visual-tokens",
        type=int,
        metavar="N",
        help="show a bundle's language model at most N of each camera (default: all)",
    )
    parser.add_argument("--plain", action="store_true", help="of a bundle, the standard graphs with nothing reused or drafted")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")


def run(args: argparse.Namespace) -> int:
    """Runs the command; 1 if answers differ from those they are held against."""
    from leo_edge.demo.answer_file import CARD_ANSWERS, AnswerFile
    from leo_edge.demo.scoring import SplitOptions

    options = SplitOptions(args.split, args.scenes, args.per_type, args.seed)
    kept = None
    if args.against:
        path = CARD_ANSWERS if args.against == "card" else Path(args.against)
        kept = AnswerFile.read(path)
        kept.require_same_questions(options, path)
    answerer = open_answerer(args.model, threads=args.threads, max_visual_tokens=args.max_visual_tokens, plain=args.plain)
    split = draw(options, processes=args.processes)
    answers = answer(answerer, split)
    if args.answers:
        AnswerFile(options, answers).write(args.answers)
    agreed = agreement_with(kept.answers, answers) if kept else None
    if args.json:
        print(json.dumps(report(options, split, answers, agreed), indent=1))
    else:
        print(table(split, answers, markdown=args.markdown))
        if agreed:
            print(f"\n{agreed.equal} of {agreed.total} answers equal those of {args.against}")
    return 0 if agreed is None or not agreed.differing else 1


def open_answerer(model: Path, *, threads: int = 0, max_visual_tokens: int | None = None, plain: bool = False) -> Answerer:
    """Opens a bundle in its pipeline or a checkpoint in torch, by what is in the directory.

    A `plain` pipeline runs the bundle's standard graphs and saves nothing.

    Raises:
        LeoEdgeError: it is neither, or `max_visual_tokens` is not for it.
    """
    from leo_edge.demo.answering import BundleAnswerer, TorchAnswerer
    from leo_edge.runtime.manifest import MANIFEST_NAME
    from leo_edge.runtime.pipeline import Savings, open_pipeline

    if (model / MANIFEST_NAME).exists():
        try:
            pipeline = open_pipeline(model, threads=threads, standard_graphs=plain)
            return BundleAnswerer(replace(pipeline, savings=Savings(not plain, not plain)), max_visual_tokens)
        except ValueError as error:
            raise LeoEdgeError(f"--{error}".replace("_", "-", 2)) from None
    if plain:
        raise LeoEdgeError(f"--plain is for bundles, {model} is none: export it first")
    if max_visual_tokens is not None:
        raise LeoEdgeError(f"--max-visual-tokens is for bundles, {model} is none: export it first")
    if (model / "config.json").exists():
        return TorchAnswerer.open(model)
    raise LeoEdgeError(f"{model} holds neither {MANIFEST_NAME} nor config.json: give a bundle or a checkpoint")


def draw(options: SplitOptions, *, processes: int | None = None) -> SplitSet:
    """Draws a split behind a progress bar."""
    from tqdm import tqdm

    from leo_edge.demo.scoring import draw_split

    say(f"drawing {options.scenes} {options.split} scenes")
    with tqdm(total=options.scenes, unit="scene", disable=None) as bar:
        return draw_split(options, processes=processes or os.cpu_count() or 1, tick=bar.update)


def answer(answerer: Answerer, split: SplitSet) -> Answers:
    """Answers a split behind a progress bar."""
    from tqdm import tqdm

    from leo_edge.demo.scoring import answer_set

    say(f"answering {len(split.questions)} questions about {len(split.frames)} keyframes, twice")
    with tqdm(total=len(split.frames), unit="keyframe", disable=None) as bar:
        return answer_set(answerer, split, tick=bar.update)


def agreement_with(kept: Answers, answers: Answers) -> Agreement:
    """Counts the answers, with right and with wrong images, that equal those that were kept."""
    from leo_edge.replay.score import agreement

    return agreement(kept.own + kept.blind, answers.own + answers.blind)


def _scores(split: SplitSet, answers: Answers) -> dict[str, Scores]:
    from leo_edge.demo.scoring import scored_items
    from leo_edge.replay.score import majority_baseline, score

    own = scored_items(split, answers.own)
    blind = scored_items(split, answers.blind)
    return {"model": score(own), "majority": score(majority_baseline(own)), "blind": score(blind)}


def table(split: SplitSet, answers: Answers, *, markdown: bool = False) -> str:
    """Returns the accuracy by type beside both baselines, and what was left out."""
    from leo_edge.demo.scoring import scored_items
    from leo_edge.replay.score import markdown_table, most_confused, text_table

    scores = _scores(split, answers)
    others = {name: scores[name] for name in ("majority", "blind")}
    lines = [(markdown_table if markdown else text_table)(scores["model"], others), ""]
    for kind, pairs in most_confused(scored_items(split, answers.own), _NUM_CONFUSIONS).items():
        wrong = "; ".join(f"{pair.answer!r} for {pair.truth!r} ({pair.count})" for pair in pairs)
        lines.append(f"most often wrong, {kind}: {wrong}" + ("  " if markdown else ""))
    share = split.in_doubt / max(1, split.candidates)
    lines.append(f"left out because the truth is in doubt: {share:.0%} of {split.candidates} candidate questions")
    return "\n".join(lines)


def report(options: SplitOptions, split: SplitSet, answers: Answers, agreed: Agreement | None) -> dict[str, Any]:
    """Returns all figures as JSON values."""
    made: dict[str, Any] = {"split": options.split, "num_keyframes": len(split.frames), "num_questions": len(split.questions)}
    made |= {name: scores.to_json() for name, scores in _scores(split, answers).items()}
    made |= {"num_in_doubt": split.in_doubt, "num_candidates": split.candidates}
    return made | ({"agreement": agreed.to_json()} if agreed else {})
