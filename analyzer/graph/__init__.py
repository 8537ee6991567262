"""ONNX files in and out: load, normalize, query, append, save. The only importer of onnx-graphsurgeon."""

from analyzer.graph.body import Body
from analyzer.graph.builder import Builder
from analyzer.graph.ir import Graph
from analyzer.graph.load import load
from analyzer.graph.nodes import Node, Value, loose
from analyzer.graph.passes import PASSES, normalize
from analyzer.graph.source import Source

__all__ = ["PASSES", "Body", "Builder", "Graph", "Node", "Source", "Value", "load", "loose", "normalize"]
