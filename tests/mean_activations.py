"""The mean activations of a layer over pictures: a pass as a newcomer would write it."""

import numpy as np

from analyzer.attribution import Model
from analyzer.attribution.features import Taps
from analyzer.images import model_card
from analyzer.passes import InputPass


class MeanActivations(InputPass):
    name, batch = "mean", 4

    def __init__(self, path, layer):
        model = Model(path, threads=1)
        super().__init__(model, model_card(path, None, model.plain.inputs[0].shape).preprocess)
        self.layer = layer

    @property
    def identity(self):
        return {**super().identity, "layer": self.layer}

    def setup(self, first):
        self.taps = Taps(self.model, self.model.graph(), [self.layer])

    def step(self, batch):
        maps = self.taps.run(self.model.batch([feeds for _, feeds in batch]))[self.layer][: len(batch)]
        return {"sum": maps.sum(axis=0, dtype=np.float64), "count": len(batch)}
