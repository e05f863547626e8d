"""What the builder refuses, in its words where users quote them.

Sources: issues of NVIDIA/TensorRT (#768, #939 for profiles), docstrings of the bindings; the message about
TensorScatter is of 11.2, as its users quote it.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.doubles.trt.binding import RELEASE
from tests.doubles.trt.config import IBuilderConfig, IOptimizationProfile
from tests.doubles.trt.enums import BuilderFlag
from tests.doubles.trt.model import Model, Port, Shape, ShapeError
from tests.doubles.trt.network import INetworkDefinition
from tests.doubles.trt.plan import Ranges

_PRECISIONS = {"FP16": "fp16", "BF16": "bf16", "INT8": "int8"}
_SHAPE_INPUTS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Slice": (1, 2, 3, 4),
    "Range": (0, 1, 2),
    "ConstantOfShape": (0,),
    "Tile": (1,),
}


def refusals(network: INetworkDefinition, config: IBuilderConfig) -> Iterator[str]:
    """Yields why a network cannot be built so, in the builder's words."""
    model = network._shaped()
    if model is None:
        yield "Error Code 4: API Usage Error (Network must have at least one output)"
        return
    yield from _precision(network, config, model)
    yield from _profiles(config, model)
    yield from _caches(model)
    _refuse_shape_tensors(model)
    for profile in profile_ranges(config, model):
        for which in range(3):
            yield from _shapes(model, {name: ranges[which] for name, ranges in profile.items()})


def _shapes(model: Model, shapes: dict[str, Shape]) -> Iterator[str]:
    try:
        model.output_shapes(shapes)
    except ShapeError as error:
        yield f"Error Code 4: Shape Error ({error})"


def _precision(network: INetworkDefinition, config: IBuilderConfig, model: Model) -> Iterator[str]:
    if RELEASE >= (11,):
        return
    for name, written in _PRECISIONS.items():
        flagged = config.get_flag(getattr(BuilderFlag, name))
        if network._strongly_typed and flagged:
            yield f"Error Code 3: API Usage Error ({name} must not be set for a strongly typed network)"
        used = any(node.op_type == "QuantizeLinear" for _, node in model.nodes()) if name == "INT8" else False
        if not network._strongly_typed and used and not flagged:
            yield (
                f"Error Code 4: API Usage Error ({written} precision has been set for a layer or layer output, but {written} "
                "is not configured in the builder)"
            )


def _profiles(config: IBuilderConfig, model: Model) -> Iterator[str]:
    if any(-1 in port.shape for port in model.inputs) and not config._profiles:
        yield _usage("Network has dynamic or shape inputs, but no optimization profile has been defined.")
    for number, profile in enumerate(config._profiles):
        unknown = set(profile._shapes) - {port.name for port in model.inputs}
        if unknown:
            yield _usage(f"profile {number} has {min(unknown)}, which is no input of the network")
        for port in model.inputs:
            ranges = [tuple(one) for one in profile.get_shape(port.name)]
            if ranges:
                yield from _range(port, number, ranges)
            elif -1 in port.shape:
                yield _usage(f"{port.name}: dynamic input is missing dimensions in profile {number}.")


def _range(port: Port, number: int, ranges: list[Shape]) -> Iterator[str]:
    if len(ranges[0]) != len(port.shape):
        yield _usage(f"{port.name}: number of dimensions is {len(port.shape)} but profile {number} has {len(ranges[0])}.")
        return
    for place, size in enumerate(port.shape):
        low, likely, high = (one[place] for one in ranges)
        if size >= 0 and not low == likely == high == size:
            yield _usage(
                f"{port.name}: for dimension number {place} in profile {number} does not match network definition (got "
                f"min={low}, opt={likely}, max={high}), expected min=opt=max={size})."
            )


def _caches(model: Model) -> Iterator[str]:
    inputs, outputs = {port.name: port for port in model.inputs}, {port.name for port in model.outputs}
    for _, node in model.nodes():
        if node.op_type != "TensorScatter":
            continue
        where = f"ITensor: {node.name or node.output[0]}: "
        cache = inputs.get(node.input[0])
        if cache is None or node.output[0] not in outputs:
            yield f"Error Code 4: API Usage Error ({where}The KV cache must be a network input and its update a network output)"
        elif len(cache.shape) != 4:
            yield f"Error Code 4: API Usage Error ({where}The KV cache tensor must be 4D)"
        elif cache.shape[2] < 0:
            yield f"Error Code 4: API Usage Error ({where}The KV cache tensor must have a static sequence length dimension)"


def _refuse_shape_tensors(model: Model) -> None:
    """Input values that become shapes lie on the host in TensorRT; the double does not have that, and says so."""
    names = {port.name for port in model.inputs}
    for _, node in model.nodes():
        for place in _SHAPE_INPUTS.get(node.op_type, ()):
            if place < len(node.input) and (found := _reaches(model, node.input[place], names)):
                raise NotImplementedError(f"{node.op_type} takes a shape from the values of input {found}: not in the double")


def _reaches(model: Model, name: str, inputs: set[str]) -> str | None:
    if name in inputs:
        return name
    node = model.producers.get(name)
    if node is None or node.op_type in ("Shape", "Size"):
        return None
    return next((found for one in node.input if one and (found := _reaches(model, one, inputs))), None)


def profile_ranges(config: IBuilderConfig, model: Model) -> list[Ranges]:
    """Returns the profiles with every input; one of the static shapes where none was given."""
    found: list[Ranges] = []
    for profile in config._profiles or [IOptimizationProfile.make()]:
        ranges: Ranges = {}
        for port in model.inputs:
            low, likely, high = [tuple(one) for one in profile.get_shape(port.name)] or [port.shape] * 3
            ranges[port.name] = (low, likely, high)
        found.append(ranges)
    return found


def _usage(what: str) -> str:
    return f"Error Code 4: API Usage Error ({what})"
