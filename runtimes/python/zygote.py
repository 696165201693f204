"""Entry point of the Python zygote: an interpreter that is up and forks the guests of instances."""

import sys

if __name__ == "__main__":
    from _tidegate import zygote

    zygote.main(sys.path)
