"""Entry of the spawner, run by path: `python -I -S .../wizflowd/spawner/__main__.py --directory PATH ...`."""

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from wizflowd.spawner.main import main  # found only by the line above

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
