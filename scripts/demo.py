#!/usr/bin/env python
"""`ume demo`, from a clone of the repository."""

import sys

# Here lies an evaluate.py, which must not hide the package of that name: look here last.
sys.path.append(sys.path.pop(0))

from training_ume.commands.demo import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
