"""`python -m training_ume.commands`: the `ume` command for launchers that start Python modules, such as torchrun."""

import os
import sys

# Python looks into the current folder first, where an evaluate.py of the user would hide the package of that name;
# `ume` itself does not look there at all.
if sys.path[0] in ("", os.getcwd()):
    sys.path.append(sys.path.pop(0))

from training_ume.commands import main

if __name__ == "__main__":
    sys.argv[0] = "ume"  # what results files and messages show
    sys.exit(main(sys.argv[1:]))
