"""``python -m bench.gpu``."""

from .run import main

raise SystemExit(main())
