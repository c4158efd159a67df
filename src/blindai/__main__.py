"""`python -m blindai` is the command line."""

from blindai.cli import main

if __name__ == "__main__":
    main()
