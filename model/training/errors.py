"""What can go wrong in training and publishing, beside `model.errors`."""

from model.errors import ModelError

__all__ = ["PublishingFailed", "TrainingFailed", "TrainingStopped"]


class TrainingFailed(ModelError):
    """A run cannot start or continue; the text says what to change."""


class TrainingStopped(ModelError):
    """The run was asked to stop; its checkpoint stands, and starting it again continues from there."""


class PublishingFailed(ModelError):
    """Trained weights do not make a version that can be trusted; nothing was published."""
