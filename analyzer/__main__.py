"""`python -m analyzer …`: the same program as the installed `onnx-analyzer`."""

if __name__ == "__main__":
    try:
        from analyzer.commands import main
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    main()
