"""Entry point for colcon and old tools, and what is compiled; everything else is declared in setup.cfg."""

from setuptools import Extension, setup

# optional: without a compiler there is Pillow, which is slower and gives the same pixels (leo_edge.runtime.resize).
RESIZE = Extension("leo_edge.runtime._resize", ["leo_edge/runtime/_resize.c"], extra_compile_args=["-O3"], optional=True)

setup(ext_modules=[RESIZE])
