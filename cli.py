"""`python cli.py …`: the same program as the installed `onnx-analyzer`."""

from analyzer.commands import main

if __name__ == "__main__":
    main()
