"""Makes of what pybind11-stubgen writes for TensorRT's bindings a stub that mypy reads, and that is true where it was not.

stubgen takes signatures from docstrings. Where those name C++ types, keywords or `None` wrongly, its output does not parse or
says too little. Each repair below has its reason; tests hold what can be seen without a device against the bindings themselves.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections.abc import Iterator

# What a docstring calls a type -> what Python calls it. The rest of C++'s names differ by namespace and a leading I.
_CPP_NAME = re.compile(r"\b(?:nvinfer1|nvonnxparser)::(?:\w+::)*(\w+)")
_CPP_TEMPLATE = re.compile(r"\bdetail::.*(?=:\n)")
_ENUM_DEFAULT = re.compile(r"<[\w.]+: -?\d+>")
_FUNCTION = re.compile(r"^(?P<head> *def \w+\()(?P<parameters>.*)(?P<tail>\)(?: -> .*)?:)$", re.M)
_TYPES = {
    "collections.abc.Buffer": "typing_extensions.Buffer",  # as Python 3.12 calls it; mypy is told 3.10
    "capsule": "object",
    "typing_extensions.CapsuleType": "object",
    # pybind11 takes no float for an integer, which typing.SupportsInt would let pass.
    "typing.SupportsInt": "int",
    "typing.SupportsFloat": "float",
}

# Null in C++ is None in Python. NVIDIA says so of these where they fail or nothing is set (NvInfer.h, NvInferRuntime.h,
# NvOnnxParser.h); the signatures do not.
_MAY_BE_NONE = frozenset(
    {
        "Builder.build_engine_with_config",
        "Builder.build_serialized_network",
        "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.get_timing_cache",
        "ICudaEngine.create_execution_context",
        "ICudaEngine.serialize",
        "OnnxParser.get_layer_output_tensor",
        "Runtime.deserialize_cuda_engine",
    }
)
# The name of the outermost phase's parent is null.
_MAY_TAKE_NONE = {"IProgressMonitor.phase_start": "parent_phase"}
# pybind11 makes Dims of any sequence of integers.
_DIMS_ARGUMENT = "Dims | collections.abc.Sequence[int]"
# What stands for a method, or comes in addition.
_WHOLE_METHODS = {
    # Its overloads say less.
    "IExecutionContext.set_input_shape": f"def set_input_shape(self, name: str, shape: {_DIMS_ARGUMENT}) -> builtins.bool: ...",
    # It can only be written, and stubgen leaves it out: reading gives AttributeError.
    "IExecutionContext.device_memory": """
@property
def device_memory(self) -> None: ...
@device_memory.setter
def device_memory(self, memory: int) -> None: ...
""",
    "DataType.itemsize": "@property\ndef itemsize(self) -> float: ...",  # 0.5 of INT4
    # A plan is written and hashed through the buffer protocol, which Python before 3.12 does not show.
    "IHostMemory.__buffer__": "def __buffer__(self, flags: int, /) -> memoryview: ...",
}
# Context managers are deprecated and do nothing: a use of one is to be found. The last one is C++'s destructor.
_LEFT_OUT = frozenset({"__enter__", "__exit__", "__del__"})
# The functions that the package's __init__.py adds, which has no types.
_TAIL = """
__version__: str

def nptype(trt_type: DataType) -> type[numpy.generic]: ...

def volume(iterable: collections.abc.Iterable[int]) -> int: ...
"""
_HEAD = """# mypy: disable-error-code="assignment,misc,no-untyped-def,overload-cannot-match,overload-overlap,override,type-arg"
import builtins
import collections.abc
import numpy
import typing
import typing_extensions
"""


def repair(text: str) -> str:
    """Returns the stub of the package `tensorrt`, from what stubgen wrote for its extension module.

    Raises:
        SyntaxError: it holds something that does not parse and that no repair knows.
    """
    tree = ast.parse(_parsable(text))
    body = [part for statement in tree.body for part in _mended(statement, "")]
    hidden = {name for statement in body for name in _defined(statement)} & set(dir(builtins))
    for node in ast.walk(ast.Module(body, [])):
        # tensorrt.bool is a DataType; annotations mean Python's.
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in hidden:
            node.id = f"builtins.{node.id}"
    return _HEAD + ast.unparse(ast.Module(body, [])) + _TAIL


def _parsable(text: str) -> str:
    classes = set(re.findall(r"^class (\w+)", text, re.M))

    def python_name(found: re.Match[str]) -> str:
        name = found[1]
        if name in classes:
            return name
        return name[1:] if name[:1] == "I" and name[1:] in classes else "typing.Any"

    text = _CPP_TEMPLATE.sub("typing.Any", _CPP_NAME.sub(python_name, text))
    text = _ENUM_DEFAULT.sub("...", text)
    for said, meant in _TYPES.items():
        text = re.sub(rf"\b{re.escape(said)}\b", meant, text)
    return _FUNCTION.sub(_parsable_function, text)


def _parsable_function(found: re.Match[str]) -> str:
    """Renames parameters called like keywords, and gives a default to what follows one that has it: pybind11 allows both."""
    parameters, has_default = [], False
    for parameter in _split(found["parameters"]):
        name, colon, rest = parameter.partition(":")
        if keyword.iskeyword(name):
            parameter = f"{name}_{colon}{rest}"
        has_default |= "=" in parameter
        parameters.append(parameter if not has_default or "=" in parameter or name.startswith("*") else f"{parameter} = ...")
    return found["head"] + ", ".join(parameters) + found["tail"]


def _split(parameters: str) -> Iterator[str]:
    """Cuts at the commas that are in no brackets."""
    depth, start = 0, 0
    for place, char in enumerate(parameters):
        depth += (char in "[(") - (char in "])")
        if char == "," and not depth:
            yield parameters[start:place].strip()
            start = place + 1
    if parameters:
        yield parameters[start:].strip()


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        yield statement.name
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _mended(part: ast.stmt, owner: str) -> list[ast.stmt]:
    """Returns what takes the place of a statement in the class `owner`, or in the module."""
    if isinstance(part, ast.Import | ast.ImportFrom | ast.Expr):  # an expression: a docstring, or what replaces one
        return []
    if isinstance(part, ast.ClassDef):
        return ast.parse("Severity = ILogger.Severity").body if (owner, part.name) == ("Logger", "Severity") else [_class(part)]
    if isinstance(part, ast.FunctionDef):
        return [] if part.name in _LEFT_OUT or f"{owner}.{part.name}" in _WHOLE_METHODS else [_function(part, owner)]
    if owner and isinstance(part, ast.AnnAssign) and ast.unparse(part.annotation) == "Dims":
        return _dims_property(ast.unparse(part.target))
    return [part]


def _class(node: ast.ClassDef) -> ast.ClassDef:
    body = [mended for part in node.body for mended in _mended(part, node.name)]
    for name, method in _WHOLE_METHODS.items():
        if name.startswith(f"{node.name}."):
            body += ast.parse(method).body
    body += _iteration(body)
    node.body = body or [ast.Expr(ast.Constant(...))]
    return node


def _function(node: ast.FunctionDef, owner: str) -> ast.FunctionDef:
    arguments = node.args.args
    if owner and arguments and arguments[0].arg == "self":
        arguments[0].annotation = None  # a base's, where a method was bound twice
    defaults = [None] * (len(arguments) - len(node.args.defaults)) + node.args.defaults
    for argument, default in zip(arguments, defaults, strict=True):
        if argument.annotation is None:
            continue
        # Of 10.3's signatures, as pybind11 2 writes them: any sequence will do.
        said = re.sub(r"\blist\[", "collections.abc.Sequence[", ast.unparse(argument.annotation))
        meant = _DIMS_ARGUMENT if said == "Dims" else said
        takes_none = isinstance(default, ast.Constant) and default.value is None
        if takes_none or _MAY_TAKE_NONE.get(f"{owner}.{node.name}") == argument.arg:
            meant += " | None"
        argument.annotation = _expression(meant)
    if node.returns is not None and f"{owner}.{node.name}" in _MAY_BE_NONE:
        node.returns = _expression(f"{ast.unparse(node.returns)} | None")
    node.body = [ast.Expr(ast.Constant(...))]
    return node


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _dims_property(name: str) -> list[ast.stmt]:
    """An attribute that gives Dims and takes what Dims are made of."""
    getter = f"@property\ndef {name}(self) -> Dims: ...\n"
    return ast.parse(f"{getter}@{name}.setter\ndef {name}(self, value: {_DIMS_ARGUMENT}) -> None: ...").body


def _iteration(body: list[ast.stmt]) -> list[ast.stmt]:
    """Python iterates over what has a length and is indexed by integers, mypy only over what has `__iter__`."""
    methods = [part for part in body if isinstance(part, ast.FunctionDef)]
    if {"__len__", "__getitem__"} - {part.name for part in methods} or "__iter__" in {part.name for part in methods}:
        return []
    for part in methods:
        if part.name == "__getitem__" and ast.unparse(part.args.args[1]).endswith(": int") and part.returns is not None:
            return ast.parse(f"def __iter__(self) -> collections.abc.Iterator[{ast.unparse(part.returns)}]: ...").body
    return []
