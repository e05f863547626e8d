"""Network definitions and their inputs and outputs."""

from __future__ import annotations

from typing import Any

from tests.doubles.trt.binding import RELEASE, Bound, Dims, dims, integer, member, releases, text
from tests.doubles.trt.enums import DataType, NetworkDefinitionCreationFlag, TensorLocation
from tests.doubles.trt.logger import Log, usage_error
from tests.doubles.trt.model import Model, Port, Shape


@releases(
    until={"dynamic_range": (11,), "set_dynamic_range": (11,), "reset_dynamic_range": (11,)}, writable_until={"dtype": (11,)}
)
class ITensor(Bound):
    """An input or output of a network."""

    _hidden = True

    def __init__(self, port: Port, is_input: bool, log: Log) -> None:
        super().__init__()
        self._port, self._input, self._log = port, is_input, log
        self._shape = port.shape
        self._names = list(port.names)

    @property
    def name(self) -> str:
        """Its name."""
        return self._port.name

    @property
    def shape(self) -> Dims:
        """Its shape, -1 for dynamic sizes; that of an input can be set."""
        return Dims(self._shape)

    @shape.setter
    def shape(self, value: Any) -> None:
        given = dims("shape", value)
        if not self._input:
            self._log.error(usage_error("ITensor::setDimensions", "isInput()"))
            return
        self._shape = given

    @property
    def dtype(self) -> Any:
        """Its type."""
        return self._port.dtype

    @dtype.setter
    def dtype(self, value: Any) -> None:
        if member("dtype", value, DataType) != self._port.dtype:
            raise NotImplementedError("the double does not change types: a strongly typed network has the graph's")

    @property
    def location(self) -> Any:
        """Where it lies."""
        return TensorLocation.DEVICE

    @property
    def is_network_input(self) -> bool:
        """Whether it is an input."""
        return self._input

    @property
    def is_network_output(self) -> bool:
        """Whether it is an output."""
        return not self._input

    @property
    def is_shape_tensor(self) -> bool:
        """Whether its values decide shapes; the double builds no such network."""
        return False

    @property
    def is_execution_tensor(self) -> bool:
        """Whether it is computed with."""
        return True

    @property
    def dynamic_range(self) -> None:
        """The range for implicit quantization, which the double does not have."""
        return

    def set_dynamic_range(self, min: float, max: float) -> bool:
        """Refuses: implicit quantization is not in the double."""
        raise NotImplementedError(f"implicit quantization of {self.name} in [{min}, {max}]: the double has explicit Q/DQ only")

    def reset_dynamic_range(self) -> None:
        """Does nothing: there is no range."""

    def get_dimension_name(self, index: int) -> str | None:
        """Returns the name of a dynamic size. Sizes of one name must be equal when the engine runs."""
        return self._names[integer("get_dimension_name", index)] or None

    def set_dimension_name(self, index: int, name: str) -> None:
        """Names a size."""
        self._names[integer("set_dimension_name", index)] = text("set_dimension_name", name)


class INetworkDefinition(Bound):
    """A network. The double's are filled by a parser alone."""

    _hidden = True

    def __init__(self, flags: int, log: Log) -> None:
        super().__init__()
        self._flags, self._log = flags, log
        self._model: Model | None = None
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []
        self._name = ""

    def _fill(self, model: Model) -> None:
        self._model = model
        self._inputs = [ITensor.make(port, True, self._log) for port in model.inputs]
        self._outputs = [ITensor.make(port, False, self._log) for port in model.outputs]

    def _shaped(self) -> Model | None:
        """Returns the graph with the shapes that were set on inputs."""
        if self._model is None:
            return None
        shapes: dict[str, Shape] = {one.name: one._shape for one in self._inputs}
        return self._model.with_shapes(shapes)

    @property
    def _strongly_typed(self) -> bool:
        # "Deprecated in TensorRT 11.0. Strongly typed mode is always enabled" (docstring of 11.4's flag).
        return RELEASE >= (11,) or self.get_flag(NetworkDefinitionCreationFlag.STRONGLY_TYPED)

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = text("name", value)

    @property
    def num_inputs(self) -> int:
        """How many inputs it has."""
        return len(self._inputs)

    @property
    def num_outputs(self) -> int:
        """How many outputs it has."""
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        """How many layers it has; the double takes each ONNX node for one."""
        return 0 if self._model is None else len(self._model.proto.graph.node)

    @property
    def flags(self) -> int:
        """How it was created."""
        return self._flags

    def get_flag(self, flag: Any) -> bool:
        """Whether it was created with a flag."""
        return bool(self._flags >> int(member("get_flag", flag, NetworkDefinitionCreationFlag)) & 1)

    def get_input(self, index: int) -> ITensor | None:
        """Returns an input, None where there is none."""
        return _at(self._inputs, integer("get_input", index))

    def get_output(self, index: int) -> ITensor | None:
        """Returns an output, None where there is none."""
        return _at(self._outputs, integer("get_output", index))


def _at(tensors: list[ITensor], place: int) -> ITensor | None:
    return tensors[place] if 0 <= place < len(tensors) else None
