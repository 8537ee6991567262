"""Where samples come from: pictures by file, folder, pattern and list; what is known of them."""

from analyzer.data.annotations import (
    annotated,
    as_said,
    read_classes,
    read_labelled_boxes,
    read_mask,
    read_masks,
    read_true_boxes,
    true_boxes,
    with_box_classes,
    with_classes,
)
from analyzer.data.files import LISTS, PICTURES, find_pictures
from analyzer.data.sample import Sample

__all__ = [
    "LISTS",
    "PICTURES",
    "Sample",
    "annotated",
    "as_said",
    "find_pictures",
    "read_classes",
    "read_labelled_boxes",
    "read_mask",
    "read_masks",
    "read_true_boxes",
    "true_boxes",
    "with_box_classes",
    "with_classes",
]
