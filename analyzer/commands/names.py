"""The commands, in the order in which `--help` lists them; each is a file of this folder."""

COMMANDS = (
    "doctor",
    "inspect",
    "plan",
    "explain",
    "localize",
    "features",
    "receptive-field",
    "filters",
    "project",
    "dream",
    "invariance",
    "correspondence",
    "mine",
    "evolution",
    "compare",
    "record",
    "audit",
    "export",
    "ops",
    "methods",
)
