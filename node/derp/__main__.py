"""`python -m node.derp`: the relay process."""

import sys

from node.derp.child import main

sys.exit(main())
