"""`dmlf`, and `python -m dmlf`."""

import sys


def main() -> int:
    """Run one verb and return the exit code; an interrupt is heeded from the first import on."""
    try:
        from dmlf import cli

        return cli.main()
    except KeyboardInterrupt:
        print("dmlf: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
