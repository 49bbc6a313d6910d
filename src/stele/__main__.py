"""`python -m stele` is the `stele` command."""

from stele.cli.main import main

if __name__ == "__main__":
    main()
