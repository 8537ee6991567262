"""Pictures in, pictures out: decode, preprocess, colour maps, overlays, grids. The only importer of OpenCV.

Importing this package does not import OpenCV: that happens when the first picture is decoded, drawn or written.
"""
