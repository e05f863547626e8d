"""LEO and LEO-MINI, vision-language models for driving, on the vehicle computer.

The packages beside this file are relative links to the top-level folders: import them as `leo_edge.<folder>` only.
"""

__version__ = "0.1.0"
