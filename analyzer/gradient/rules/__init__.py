"""The rules, by family. Each module registers its rules when it is imported."""

from analyzer.gradient.rules import elementwise

FAMILIES = (elementwise,)
