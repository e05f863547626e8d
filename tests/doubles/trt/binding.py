"""How classes behave that pybind11 binds: constructors, attributes, argument types, members of one release only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

from tests.doubles.machine import machine

RELEASE = machine().config.tensorrt_release
"""The release that these modules were imported for."""

T = TypeVar("T")
B = TypeVar("B", bound="Bound")


class BoundMeta(type):
    """Refuses to construct what has no constructor, and objects whose class forgot to call the base's."""

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        if cls.__dict__.get("_hidden", False):
            raise TypeError(f"tensorrt.tensorrt.{cls.__name__}: No constructor defined!")
        made = super().__call__(*arguments, **named)
        if "_initialised" not in made.__dict__:
            base = next(one.__name__ for one in cls.__mro__ if one.__module__.startswith("tests.doubles.trt"))
            raise TypeError(f"tensorrt.tensorrt.{base}.__init__() must be called when overriding __init__")
        return made


class Bound(metaclass=BoundMeta):
    """Base of all classes. Only what the class declares can be set; a Python subclass takes anything."""

    def __init__(self) -> None:
        self.__dict__["_initialised"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        ours = type(self).__module__.startswith("tests.doubles.trt")
        if ours and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"'tensorrt.tensorrt.{type(self).__name__}' object has no attribute '{name}'")
        super().__setattr__(name, value)

    @classmethod
    def make(cls: type[B], *arguments: Any) -> B:
        """Makes an object of a class whatever its constructor, as the library itself does."""
        made: B = cls.__new__(cls)
        made.__init__(*arguments)  # type: ignore[misc]
        return made


def releases(
    *,
    since: Mapping[str, tuple[int, ...]] | None = None,
    until: Mapping[str, tuple[int, ...]] | None = None,
    writable_until: Mapping[str, tuple[int, ...]] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Takes members out of a class that the release does not have: those of a later one, those gone from one on.

    `writable_until`: properties that can only be read from a release on.
    """

    def decorate(cls: type[T]) -> type[T]:
        for name, gone in (writable_until or {}).items():
            if gone <= RELEASE:
                setattr(cls, name, property(cls.__dict__[name].fget, doc=cls.__dict__[name].__doc__))
        for name, first in (since or {}).items():
            if first > RELEASE:
                delattr(cls, name)
        for name, gone in (until or {}).items():
            if gone <= RELEASE:
                delattr(cls, name)
        return cls

    return decorate


def incompatible(function: str, *values: object) -> NoReturn:
    """Refuses arguments as pybind11 does.

    Raises:
        TypeError: always.
    """
    shown = ", ".join(f"{value!r}"[:80] for value in values)
    raise TypeError(f"{function}(): incompatible function arguments. Invoked with: {shown}")


def integer(function: str, value: Any) -> int:
    """Takes a whole number: an int, or what can be made one; no float, text or None."""
    if isinstance(value, (float, str, bytes)) or not (hasattr(value, "__int__") or hasattr(value, "__index__")):
        incompatible(function, value)
    try:
        return int(value)
    except TypeError:
        incompatible(function, value)


def text(function: str, value: Any) -> str:
    """Takes a str, and no path."""
    if not isinstance(value, str):
        incompatible(function, value)
    return value


def member(function: str, value: Any, kind: type[T]) -> T:
    """Takes an object of one class."""
    if not isinstance(value, kind):
        incompatible(function, value)
    return value


def content(function: str, value: Any) -> bytes:
    """Takes an object with a buffer, and returns what is in it."""
    try:
        return bytes(memoryview(value))
    except TypeError:
        incompatible(function, value)


class Dims(Bound):
    """The sizes of a tensor. Equal to lists and tuples; compared with another `Dims` it raises, as the real one does."""

    MAX_DIMS = 8
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any = ()) -> None:
        super().__init__()
        values = [integer("Dims", value) for value in shape]
        if len(values) > self.MAX_DIMS:
            raise ValueError(f"Input length {len(values)}. Max expected length is 8")
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: Any) -> Any:
        found = self._values[place]
        return tuple(found) if isinstance(place, slice) else found

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __setitem__(self, place: Any, value: Any) -> None:
        self._values[place] = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (list, tuple)):
            incompatible("__eq__", self, other)
        return list(other) == self._values

    def __repr__(self) -> str:
        return repr(tuple(self._values))


def dims(function: str, value: Any) -> tuple[int, ...]:
    """Takes sizes: any sequence of whole numbers, arrays of them too, as pybind11 converts them to `Dims`."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        incompatible(function, value)
    if len(value) > Dims.MAX_DIMS:
        incompatible(function, value)
    return tuple(integer(function, one) for one in value)
