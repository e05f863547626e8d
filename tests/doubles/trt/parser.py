"""The ONNX parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tests.doubles.machine import machine
from tests.doubles.trt.binding import Bound, content, integer, member, text
from tests.doubles.trt.enums import ErrorCode
from tests.doubles.trt.logger import Log
from tests.doubles.trt.model import Model
from tests.doubles.trt.network import INetworkDefinition
from tests.doubles.trt.parser_rules import MOST_OPSET, Refusal, is_known, refusals


class ParserError(Bound):
    """What the parser refuses. Everything it says is a method."""

    _hidden = True

    def __init__(self, code: str, description: str, refusal: Refusal | None) -> None:
        super().__init__()
        self._code, self._description, self._refusal = code, description, refusal

    def code(self) -> Any:
        """Returns the kind of error."""
        return getattr(ErrorCode, self._code)

    def desc(self) -> str:
        """Returns what is wrong."""
        return self._description

    def node(self) -> int:
        """Returns the number of the node, -1 where it is about none."""
        return -1 if self._refusal is None else self._refusal.number

    def node_name(self) -> str:
        """Returns the name of the node."""
        return "" if self._refusal is None else self._refusal.node.name

    def node_operator(self) -> str:
        """Returns the operator of the node."""
        return "" if self._refusal is None else self._refusal.node.op_type

    def __str__(self) -> str:
        return self._description


class OnnxParser(Bound):
    """Fills a network from an ONNX graph."""

    def __init__(self, network: Any, logger: Any) -> None:
        super().__init__()
        self._network = member("__init__", network, INetworkDefinition)
        self._log = Log(logger, "__init__")
        self._errors: list[ParserError] = []

    @property
    def num_errors(self) -> int:
        """How many errors there are."""
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        """Returns an error."""
        return self._errors[integer("get_error", index)]

    def clear_errors(self) -> None:
        """Forgets the errors."""
        self._errors.clear()

    def supports_operator(self, op_name: str) -> bool:
        """Whether the parser knows an operator."""
        return is_known(text("supports_operator", op_name))

    def parse_from_file(self, model: str) -> bool:
        """Reads a file, and its external weights beside it; False says that there are errors."""
        path = Path(text("parse_from_file", model))
        if not path.is_file():
            self._log.error(f"Could not open file {path}")
            return self._refuse("MODEL_DESERIALIZE_FAILED", f"Failed to parse ONNX model from file: {path}", None)
        return self._parse(path.read_bytes(), path.parent)

    def parse(self, model: Any, path: str | None = None) -> bool:
        """Reads a serialized graph; `path` is the file beside which its external weights lie."""
        return self._parse(content("parse", model), None if path is None else Path(text("parse", path)).parent)

    def _parse(self, data: bytes, directory: Path | None) -> bool:
        if self._network.num_layers:
            return self._refuse("INVALID_VALUE", "Parse was called with a non-empty network definition", None)
        try:
            proto = onnx.load_model_from_string(data)
        except DecodeError:
            return self._refuse("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model.", None)
        if not proto.graph.node:
            return self._refuse("MODEL_DESERIALIZE_FAILED", "The ONNX model has no nodes.", None)
        external = [one.name for one in proto.graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL]
        if external:
            if directory is None:
                return self._refuse("INVALID_GRAPH", f"Failed to open the external weights of {external[0]}", None)
            try:
                onnx.load_external_data_for_model(proto, str(directory))
            except (OSError, onnx.checker.ValidationError) as error:
                return self._refuse("INVALID_GRAPH", f"Failed to open the external weights of {external[0]}: {error}", None)
        return self._check(Model(proto))

    def _check(self, model: Model) -> bool:
        if model.opset > MOST_OPSET:
            text_of = f"opset {model.opset} is above {MOST_OPSET}, the newest that this parser knows"
            return self._refuse("UNSUPPORTED_GRAPH", text_of, None)
        if machine().fails("parser"):
            node = model.proto.graph.node[0]
            return self._refuse_node(Refusal(0, node, "UNSUPPORTED_NODE", "Assertion failed: the machine's fault `parser`"))
        found = list(refusals(model))
        for refusal in found:
            self._refuse_node(refusal)
        if not found:
            self._network._fill(model)
        return not found

    def _refuse_node(self, refusal: Refusal) -> bool:
        if refusal.text.startswith("creator"):
            self._log.info(f"No importer registered for op: {refusal.node.op_type}. Attempting to import as plugin.")
        return self._refuse(refusal.code, refusal.description, refusal)

    def _refuse(self, code: str, description: str, refusal: Refusal | None) -> bool:
        self._errors.append(ParserError.make(code, description, refusal))
        self._log.error(description)
        return False
