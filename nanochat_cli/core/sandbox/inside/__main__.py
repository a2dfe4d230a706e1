"""Start of the isolated interpreter: finds its own few files, then forgets where they are."""

import os
import sys


def start() -> None:
    """Import the template with the package's folder on the path for that moment only, and serve."""
    root = os.path.abspath(__file__)
    for _ in range(5):
        root = os.path.dirname(root)
    sys.path.insert(0, root)
    from nanochat_cli.core.sandbox.inside import once, template

    sys.path.remove(root)
    if sys.argv[1] == "once":
        once.main(sys.argv[2])
    else:
        template.main(int(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    start()
