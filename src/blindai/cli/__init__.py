from blindai.cli.app import main

__all__ = ["main"]
