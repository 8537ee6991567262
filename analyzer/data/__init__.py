"""Where samples come from: pictures by file, folder, pattern and list."""

from analyzer.data.files import LISTS, PICTURES, find_pictures
from analyzer.data.sample import Sample

__all__ = ["LISTS", "PICTURES", "Sample", "find_pictures"]
