"""TensorRT's Python API as the double's module `tensorrt` shows it, for the release of the machine.

Its classes are made for one release when these modules are imported; `install.py` imports them anew for another. Held against
the bindings of 10.3.0, 10.16.1.11 and 11.4.0.106. What is not here does not exist in the double, though it may in the real one.
"""
