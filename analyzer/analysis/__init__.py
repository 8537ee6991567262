"""Abstract interpretation of a graph: one walk, one table per question. Receptive fields are one."""

from analyzer.analysis.interpreter import HiddenError, Interpretation, Site, Table, interpret, transfer
from analyzer.analysis.receptive_field import ReceptiveField, ReceptiveFields, receptive_field
