"""Prints the oldest versions that pyproject.toml allows of each dependency, as constraints for pip."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

for requirement in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["graph"]):
    if ">=" in requirement:
        print(re.sub(r"\s*>=\s*", "==", requirement, count=1))
