"""What a model is, by abstract interpretation: one walk (`interpreter`), one table of transfer functions per question.

Receptive fields, layouts of axes, what is linear, what it costs, and what is a rectifier are tables.
"""

from analyzer.analysis.interpreter import HiddenError, Interpretation, Site, Table, interpret, transfer
from analyzer.analysis.receptive_field import ReceptiveField, ReceptiveFields, receptive_field
