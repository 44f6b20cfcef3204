"""The parts of fastai that training is built on, imported in one place.

fastai 2.8 still calls functions that newer versions of torch announce the end of; its users can do nothing about that,
so those warnings end here.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastai.callback.core import Callback, TrainEvalCallback
    from fastai.callback.schedule import (
        LRFinder,
        ParamScheduler,
        SchedCos,
        SchedLin,
        combine_scheds,
        combined_cos,
        valley,
    )
    from fastai.callback.training import GradientClip
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner, Recorder
    from fastai.metrics import accuracy
    from fastai.optimizer import Adam, OptimWrapper

__all__ = [
    "Adam",
    "Callback",
    "DataLoaders",
    "GradientClip",
    "LRFinder",
    "Learner",
    "OptimWrapper",
    "ParamScheduler",
    "Recorder",
    "SchedCos",
    "SchedLin",
    "TrainEvalCallback",
    "accuracy",
    "combine_scheds",
    "combined_cos",
    "valley",
]
