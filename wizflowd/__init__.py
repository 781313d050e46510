"""wizflowd: a daemon that runs the workflow files dropped into a folder, once per change."""

__version__ = "0.1.0"
