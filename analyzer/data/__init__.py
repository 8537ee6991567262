"""Where samples come from: pictures by file, folder, pattern and list; what is known of them."""

from analyzer.data.annotations import read_boxes, read_classes, read_labelled_boxes, with_classes
from analyzer.data.files import LISTS, PICTURES, find_pictures
from analyzer.data.sample import Sample

__all__ = [
    "LISTS",
    "PICTURES",
    "Sample",
    "find_pictures",
    "read_boxes",
    "read_classes",
    "read_labelled_boxes",
    "with_classes",
]
