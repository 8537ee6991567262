"""What the axes of tensors mean: batch, channels, space or tokens.

Axes are followed from the image through the graph (`walk`). An operator's row in the table of letters (`letters`) says
what it does to whole axes; where axes are taken apart, that in the table of digits (`parts`) follows the parts; where
that trail is lost too, the grids seen so far pick it up again (`shapes`). A vision transformer of 8×8 patches over
32×32 pixels:

    image      [1, 3, 32, 32]  NCHW
    Conv       [1, 64, 4, 4]   NCHW  a window: N, C and space, whatever came before
    Reshape    [1, 64, 16]     NCL   space flattened to tokens, 4×4
    Transpose  [1, 16, 64]     NLC
    Concat     [1, 17, 64]     NLC   tokens 4×4 + 1 at the start
    Reshape    [1, 17, 4, 16]  –     C is two digits now, heads and what is in them: no feature map
    Reshape    [1, 17, 64]     NLC   the digits of C are together again
"""

from analyzer.analysis.layouts.layout import Layout
from analyzer.analysis.layouts.walk import layouts, merged_layouts

__all__ = ["Layout", "layouts", "merged_layouts"]
