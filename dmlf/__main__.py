"""`python -m dmlf`."""

from dmlf.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
