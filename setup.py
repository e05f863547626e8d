"""Entry point for colcon and old tools; everything is declared in setup.cfg."""

from setuptools import setup

setup()
