"""ONNX files in and out: load, normalize, query, append, save. The only importer of onnx-graphsurgeon."""

from analyzer.graph.builder import Builder
from analyzer.graph.ir import Body, Graph, Node, Value, loose
from analyzer.graph.load import Source, load
from analyzer.graph.passes import PASSES, normalize

__all__ = ["PASSES", "Body", "Builder", "Graph", "Node", "Source", "Value", "load", "loose", "normalize"]
