"""Why a run cannot be queued, in TensorRT's words where users quote them."""

from __future__ import annotations

from collections.abc import Mapping

from tests.doubles.trt.core import EngineCore
from tests.doubles.trt.logger import usage_error
from tests.doubles.trt.model import Shape, ShapeError

_ENQUEUE = "IExecutionContext::enqueueV3"
_BINDING = "mContext.profileObliviousBindings.at(profileObliviousIndex)"


def refusal_to_run(core: EngineCore, profile: int, shapes: dict[str, Shape], addresses: Mapping[str, int]) -> str | None:
    """Returns what is logged, None where shapes and addresses are complete.

    Raises:
        NotImplementedError: an output's shape depends on values.
    """
    if profile < 0:
        return usage_error(_ENQUEUE, "mOptimizationProfile >= 0")
    missing = [name for name in core.inputs if name not in shapes]
    if missing:
        return usage_error(_ENQUEUE, f"allInputDimensionsSpecified(routine). Shapes of {', '.join(missing)} are not set")
    try:
        outputs = core.model.output_shapes(shapes)
    except ShapeError as error:
        return f"{_ENQUEUE}: Error Code 7: Internal Error ({error})"
    if any(size < 0 for shape in outputs.values() for size in shape):
        raise NotImplementedError("an output's shape depends on values: not in the double")
    return _address_refusal(core, addresses)


def _address_refusal(core: EngineCore, addresses: Mapping[str, int]) -> str | None:
    for name in core.inputs:
        if not addresses.get(name):
            return usage_error(
                _ENQUEUE,
                f"{_BINDING} != nullptr. Address is not set for input tensor {name}. Call setInputTensorAddress or "
                "setTensorAddress before enqueue/execute.",
            )
    for name in core.outputs:
        if not addresses.get(name):
            return usage_error(
                _ENQUEUE,
                f"{_BINDING} || getPtrOrNull(mOutputAllocators, profileObliviousIndex). Neither address or allocator is set "
                f"for output tensor {name}. Call setOutputTensorAddress, setTensorAddress or setOutputAllocator before "
                "enqueue/execute.",
            )
    for output, given in core.plan.aliases.items():
        if addresses[output] != addresses[given]:
            return usage_error(_ENQUEUE, f"address({output}) == address({given}). Aliased tensors must have the same address")
    return None
