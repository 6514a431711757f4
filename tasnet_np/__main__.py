"""python -m tasnet_np is the same as tasnet-np."""

import sys

from tasnet_np.commands.main import main

sys.exit(main())
