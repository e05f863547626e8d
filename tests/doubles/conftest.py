"""The doubles' own tests use them as other tests do."""

from tests.doubles.fixtures import edge_machine, machine_environment

__all__ = ["edge_machine", "machine_environment"]
