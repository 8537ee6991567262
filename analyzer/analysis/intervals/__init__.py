"""Which pixels of the image a tensor's units read: intervals that move over the image as the unit's index moves.

A 3×3 convolution of stride 2 with padding 1, followed by a 2× nearest upsampling, along one axis of 8 pixels:

    pixel             -1   0   1   2   3   4   5   6   7
    conv unit 0       [----------]                            [-1, 1]
    conv unit 1                 [----------]                  [ 1, 3]    unit i: [-1, 1] + 2·i
    conv unit 2                           [----------]        [ 3, 5]
    upsampled unit 0  [----------]                            [-1, 1]
    upsampled unit 1  [----------]                            [-1, 1]    unit o: [-1, 1] + 2·⌊o / 2⌋
    upsampled unit 2            [----------]                  [ 1, 3]

Both lines on the right are a `Walk`: an interval that shifts by `stride` pixels every `len(lo)` indices. The
convolution is Walk(stride=2, lo=(-1,), hi=(1,)); the upsampling *pulls* it through "output o reads input ⌊o / 2⌋"
and gets Walk(stride=2, lo=(-1, -1), hi=(1, 1)), which has two phases. So strided, dilated and transposed
convolution, resizing and windows of transformers are all exact, whatever their order.

- `walk`: one index (`Digit`) and how the interval moves with it (`Walk`); `Taps` says which inputs an output reads.
- `path`: along one axis of the image, unit i reads [lo + Σ_d walk_d.lo(i_d), hi + Σ_d walk_d.hi(i_d)] (`Path`). An axis
  of a tensor is written as digits, outermost first: one for an ordinary axis, two for tokens (h, w) flattened into one
  axis, or for windows (which window, where in it).
- `field`: a tensor (`Field`): its axes in digits, and per axis of the image the paths that lead to it. Moving data
  moves digits; reading several units at once (`pull`) takes minima and maxima over them.
- `meeting`: two tensors that meet keep both their paths until one contains the other.

The image counts as continued beyond its borders: a unit near the border has an interval that reaches outside.
"""

from analyzer.analysis.intervals.field import Field, axis_of
from analyzer.analysis.intervals.meeting import concat, join, union
from analyzer.analysis.intervals.path import Path
from analyzer.analysis.intervals.walk import EMPTY, INFINITE, LIMIT, STILL, Digit, Size, Taps
