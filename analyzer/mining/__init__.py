"""Passes over folders of pictures: the strongest activations of every channel, and what channels do on the way."""

from analyzer.mining.miner import Mining, MiningResult, mine
from analyzer.mining.ranking import Ranking
from analyzer.mining.statistics import PeakStatistics

__all__ = ["Mining", "MiningResult", "PeakStatistics", "Ranking", "mine"]
