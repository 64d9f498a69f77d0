"""``python -m sdn_triton`` is the command ``sdn-triton``."""

from sdn_triton.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
