"""The commands, in the order in which `--help` lists them; each is a file of this folder."""

COMMANDS = {
    "doctor": "Check the installation and the execution providers.",
    "inspect": "Show a model's inputs, outputs, layers and targets.",
    "plan": "Show what a method would differentiate.",
    "explain": "Draw heatmaps of what a model looks at.",
    "localize": "Draw boxes around what a model looks at.",
    "features": "Save feature maps; show channel statistics.",
    "receptive-field": "Show the receptive field of each feature map.",
    "filters": "Draw convolution kernels; measure their frequencies.",
    "project": "Show which pixels activate a unit.",
    "dream": "Generate the picture that maximizes a unit or class.",
    "invariance": "Measure the effect of shifting, scaling and rotating.",
    "correspondence": "Measure whether a layer recognizes parts.",
    "mine": "Find the pictures that activate each channel most.",
    "evolution": "Show how features change during training.",
    "compare": "Compare two builds of a model.",
    "record": "Run one side of a comparison on another machine.",
    "audit": "Audit a model and its heatmaps.",
    "export": "Save a model with an added heatmap output.",
    "ops": "List how ONNX operators are differentiated.",
    "methods": "List methods with their formulas and options.",
}  # and what they do, in a line of `--help`
