"""python -m tasnet_np is the same as tasnet-np."""

import sys

from tasnet_np.cli import main

sys.exit(main())
