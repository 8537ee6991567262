"""Pictures in, pictures out: decode, preprocess, colour maps, overlays, grids. The only importer of OpenCV.

Importing this package does not import OpenCV: that happens when the first picture is decoded, drawn or written.
"""

from analyzer.images._opencv import allow_pixels
from analyzer.images.card import ModelCard, model_card
from analyzer.images.colour import COLORMAPS, colormap, colourise
from analyzer.images.components import connected_components
from analyzer.images.decode import decode, is_picture, read_header
from analyzer.images.draw import ColourBar, Found, draw_boxes, draw_found, figure, fit, signed_view
from analyzer.images.feeding import Fed, Feeding
from analyzer.images.fill import gaussian_blur, inpaint
from analyzer.images.labels import load_labels
from analyzer.images.placement import Placement
from analyzer.images.preprocess import PRESETS, Preprocess
from analyzer.images.read import Picture, read
from analyzer.images.tiles import channel_grid, grid
from analyzer.images.views import VIEWS, Drawing, Map, Panel, sheet
from analyzer.images.write import (
    atomic_file,
    atomic_write,
    encode,
    encode_gray,
    encode_plain,
    file_name,
    write_npy,
    write_npz,
    write_png,
)

__all__ = [
    "COLORMAPS",
    "PRESETS",
    "VIEWS",
    "ColourBar",
    "Drawing",
    "Fed",
    "Feeding",
    "Found",
    "Map",
    "ModelCard",
    "Panel",
    "Picture",
    "Placement",
    "Preprocess",
    "allow_pixels",
    "atomic_file",
    "atomic_write",
    "channel_grid",
    "colormap",
    "colourise",
    "connected_components",
    "decode",
    "draw_boxes",
    "draw_found",
    "encode",
    "encode_gray",
    "encode_plain",
    "figure",
    "file_name",
    "fit",
    "gaussian_blur",
    "grid",
    "inpaint",
    "is_picture",
    "load_labels",
    "model_card",
    "read",
    "read_header",
    "sheet",
    "signed_view",
    "write_npy",
    "write_npz",
    "write_png",
]
