"""``python -m authproxy.demo.functions NAME``: one replica of one function, as the platform starts it."""

import importlib
import sys

from authproxy.demo.functions import FUNCTIONS
from authproxy.demo.functions.watchdog import serve


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in FUNCTIONS:
        sys.stderr.write(
            f"usage: python -m authproxy.demo.functions NAME, where NAME is one of {', '.join(FUNCTIONS)}\n"
        )
        return 2
    module = importlib.import_module(f"authproxy.demo.functions.{arguments[0].replace('-', '_')}")
    serve(module.handle)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
