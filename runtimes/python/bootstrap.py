"""Entry point of Tidegate's Python runtime; `../README.md` describes the channel it speaks.

Kept to a few lines on purpose: Python compiles the script it is given at every start, but reads the modules of a
package from their cached bytecode.
"""

import sys

if __name__ == "__main__":
    from _tidegate import loop

    loop.main(sys.path)
