"""`leo-edge plan BUNDLE|PRESET`: what it will take on a device, predicted, and which settings meet a deadline."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leo_edge.bench.devices import THIS, Device, device_of, find_device
from leo_edge.bench.plan import VISUAL_SHARES, Asked, Plan, Predictor, search
from leo_edge.bench.plan_fit import Check, calibrate, check
from leo_edge.bench.plan_report import (
    check_text,
    checks_json,
    device_text,
    parameters_text,
    plan_json,
    plan_text,
    published_text,
)
from leo_edge.bench.result import QUESTION, BenchResult, read_result
from leo_edge.commands.progress import open_with_progress
from leo_edge.runtime.errors import LeoEdgeError
from leo_edge.runtime.frames import NUSCENES_CAMERAS, NUSCENES_PX

if TYPE_CHECKING:
    from leo_edge.bench.plan_work import WorkCounter
    from leo_edge.runtime.bundle import Bundle

# Of a preset, which has no tokenizer: about what LEO-MINI's template, six camera names and such a question take.
_TEXT_TOKENS, _QUESTION_TOKENS = 150, 12
_ORIN = "jetson-agx-orin-64"
_PRECISIONS = ("float16", "int8", "int4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "model", metavar="BUNDLE|PRESET", nargs="?", type=Path, help="a bundle, or a preset as `checkpoint` has them"
    )
    parser.add_argument(
        "--device", metavar="DEVICE", default=_ORIN, help=f"of the table; `{THIS}`: the one of --calibrate (default {_ORIN})"
    )
    parser.add_argument("--power", metavar="MODE", help="power mode such as 50w (default: the highest)")
    parser.add_argument("--cameras", type=int, default=6, metavar="N", help="(default 6)")
    parser.add_argument("--deadline-ms", type=float, default=500.0, metavar="MS", help="of a set's answers (default 500)")
    parser.add_argument("--questions", type=int, default=1, metavar="N", help="asked about every frame set (default 1)")
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="of an answer, at most (default 32)")
    parser.add_argument("--precision", choices=_PRECISIONS, help="of a preset (default: all three are tried)")
    parser.add_argument("--calibrate", type=Path, nargs="+", metavar="RESULT", help="results of `bench` on the device")
    parser.add_argument("--check", type=Path, nargs="+", metavar="RESULT", help="predict these results and compare")
    parser.add_argument("--published", action="store_true", help="print published figures of an Orin beside ours")
    parser.add_argument("--json", action="store_true", help="print the same as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    if args.published:
        return _published(as_json=args.json)
    _check_arguments(args)
    calibration = [read_result(path) for path in args.calibrate or ()]
    held_out = [read_result(path) for path in args.check or ()]
    device = _device(args, calibration)
    bundle = None if _is_preset(args.model) else open_with_progress(args.model)
    counter = _counter(args.model, bundle)
    for result in (*calibration, *held_out):
        _check_model(result, bundle, args.model)
    predictor = calibrate(calibration, counter.stages, device) if calibration else Predictor(device)
    if held_out:
        return _report_checks([check(result, counter.stages, predictor) for result in held_out], as_json=args.json)
    asked = _asked(args, bundle, counter)
    plan = search(counter, asked, predictor)
    if args.json:
        print(json.dumps(plan_json(plan, device), indent=1))
    else:
        print(
            "\n\n".join(
                [device_text(device, len(calibration)), plan_text(plan, asked), *_to_paste(plan, asked, args.model, counter)]
            )
        )
    return 0 if plan.best is not None else 1


def _published(*, as_json: bool) -> int:
    from leo_edge.bench.published import beside_published

    figures = beside_published(find_device(_ORIN))
    if as_json:
        rows = [
            {
                "name": one.figure.name,
                "unit": one.figure.unit,
                "predicted": one.predicted,
                "published": one.figure.published,
                "error": one.error,
                "used_for": one.figure.used_for or None,
            }
            for one in figures
        ]
        print(json.dumps(rows, indent=1))
    else:
        print(published_text(figures))
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    if args.model is None:
        raise LeoEdgeError("plan needs a bundle or a preset (or --published alone)")
    for name in ("cameras", "questions", "max_new_tokens", "deadline_ms"):
        if getattr(args, name) <= 0:
            raise LeoEdgeError(f"--{name.replace('_', '-')} must be above 0, got {getattr(args, name):g}")
    if args.device == THIS and not args.calibrate:
        raise LeoEdgeError(f"--device {THIS} needs --calibrate RESULT: write one with leo-edge bench BUNDLE --json RESULT")
    if args.device == THIS and args.power:
        raise LeoEdgeError(f"--power does not go with --device {THIS}: its results were measured in one power mode")
    if args.check and not args.calibrate:
        raise LeoEdgeError("--check needs --calibrate RESULT, a result of the same machine to predict from")


def _device(args: argparse.Namespace, calibration: Sequence[BenchResult]) -> Device:
    return device_of(calibration[0]) if args.device == THIS else find_device(args.device, args.power)


def _is_preset(model: Path) -> bool:
    from leo_edge.export.presets import PRESETS

    return not model.exists() and model.name in PRESETS


def _counter(model: Path, bundle: Bundle | None) -> WorkCounter:
    from leo_edge.commands.plan_costs import bundle_counter, preset_counter

    return preset_counter(model.name) if bundle is None else bundle_counter(bundle)


def _check_model(result: BenchResult, bundle: Bundle | None, model: Path) -> None:
    """Checks that a result is of what is planned: efficiencies of one model are not those of another."""
    if bundle is None:
        raise LeoEdgeError(f"--calibrate needs a bundle, the one that was measured, got the preset {model.name}")
    if result.bundle_id != bundle.id:
        raise LeoEdgeError(
            f"the result is of bundle {result.bundle_id}, {model} is {bundle.id}: measure this bundle with bench"
        )


def _asked(args: argparse.Namespace, bundle: Bundle | None, counter: WorkCounter) -> Asked:
    text_tokens, question_tokens = (_TEXT_TOKENS, _QUESTION_TOKENS) if bundle is None else _prompt(bundle, args.cameras)
    precisions: tuple[str | None, ...] = (None,)
    if bundle is None:
        precisions = _PRECISIONS if args.precision is None else (args.precision,)
    elif args.precision is not None:
        raise LeoEdgeError(f"--precision is for presets: {args.model} is what it is; quantize it and plan the new bundle")
    return Asked(
        cameras=args.cameras,
        text_tokens=text_tokens,
        question_tokens=question_tokens,
        answer_tokens=args.max_new_tokens,
        deadline_ms=args.deadline_ms,
        questions=args.questions,
        image_px=NUSCENES_PX,
        precisions=precisions,
        visual_shares=VISUAL_SHARES if counter.facts.family == "leo" else (1.0,),  # docs/ros.md: LEO-MINI needs all
    )


def _prompt(bundle: Bundle, cameras: int) -> tuple[int, int]:
    """Returns how many tokens of a prompt are not visual, and how many the question has."""
    from leo_edge.runtime.prompt import build_prompt
    from leo_edge.runtime.tokenizer import Tokenizer

    images = [(NUSCENES_CAMERAS[i % len(NUSCENES_CAMERAS)], 1) for i in range(cameras)]
    prompt = build_prompt(QUESTION, images, bundle.manifest.prompt, Tokenizer(bundle.path(bundle.manifest.tokenizer)))
    return len(prompt.token_ids) - cameras, len(prompt.question_ids)


def _report_checks(checks: Sequence[Check], *, as_json: bool) -> int:
    print(json.dumps(checks_json(checks), indent=1) if as_json else check_text(checks))
    return 0 if all(one.passed for one in checks) else 1


def _to_paste(plan: Plan, asked: Asked, model: Path, counter: WorkCounter) -> list[str]:
    """Returns what to do for the setting that was chosen: parameters of the node, and commands where a bundle is to be made."""
    if plan.best is None:
        return []
    most_tiles = counter.facts.tiling.max_tiles if plan.best.precision is None else plan.best.max_tiles
    parts = [f"parameters of the node:\n{parameters_text(plan.best, asked, most_tiles)}"]
    if plan.best.precision is not None:
        parts.append("\n".join(["commands:", *_commands(plan.best.precision, plan.best.max_tiles, model.name)]))
    return parts


def _commands(precision: str, max_tiles: int, preset: str) -> list[str]:
    commands = [f"leo-edge export CHECKPOINT out/{preset} --float fp16 --max-tiles {max_tiles}"]
    if precision != "float16":
        commands.append(f"leo-edge calibrate out/{preset} --nuscenes ROOT --questions FILE --out out/table")
        commands.append(f"leo-edge quantize out/{preset} out/table out/{preset}-{precision} --weights {precision}")
    return commands
