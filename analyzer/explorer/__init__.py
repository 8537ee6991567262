"""The explorer: layers, units and evidence of a model, live in a browser."""
