"""What the doubles raise where the real things give no error code.

All derive from BaseException, so that no `except Exception` of the code under test takes them for an ordinary error.
"""


class Crash(BaseException):
    """The real thing would end the process here (segmentation fault, std::terminate)."""


class Undefined(BaseException):
    """The real thing's documentation leaves what happens now undefined."""


class Race(Undefined):
    """Two accesses to the same memory are not ordered by a stream, an event or a synchronisation."""
