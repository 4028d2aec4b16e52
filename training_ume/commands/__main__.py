"""`python -m training_ume.commands`: the `ume` command for launchers that start Python modules, such as torchrun."""

import sys

from training_ume.commands import main

if __name__ == "__main__":
    sys.argv[0] = "ume"  # what results files and messages show
    sys.exit(main(sys.argv[1:]))
