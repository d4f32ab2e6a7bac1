"""Where the numbers of an epoch go while a training runs: TensorBoard always, Weights & Biases and MLflow through accelerate where asked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.loop import Epoch
from finetune.settings import TrainSettings
from fmx.errors import SurroundingsError, first_line

CURVES = ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "rows_per_second", "waiting")


class Trackers:
    """Writes epochs to every tracker; steps count over the stages."""

    def __init__(self, folder: Path, settings: TrainSettings, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)
        self._others = _open_others(settings, folder)

    def log(self, step: int, epoch: Epoch) -> None:
        """Write one epoch's numbers."""
        values = {name: value for name, value in asdict(epoch).items() if name in CURVES}
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        for tracker in self._others:
            tracker.log(values, step=step)

    def close(self) -> None:
        """Write out what is still buffered."""
        self._writer.close()
        for tracker in self._others:
            tracker.finish()


def _open_others(settings: TrainSettings, folder: Path) -> list[Any]:
    if not settings.track:
        return []
    from accelerate import Accelerator
    from accelerate.tracking import get_available_trackers

    absent = [name for name in settings.track if name not in {str(available) for available in get_available_trackers()}]
    if absent:
        raise SurroundingsError(f"--track {absent[0]} needs a library that is not installed.", hint=f"pip install {absent[0]}")
    accelerator = Accelerator(log_with=list(settings.track), project_dir=str(folder), cpu=settings.device == "cpu")
    plain = {key: value for key, value in settings.model_dump().items() if isinstance(value, str | int | float | bool)}
    try:
        accelerator.init_trackers("fmx", config=plain)
    except Exception as error:  # each library has kinds of its own: no key, no server
        reason, names = first_line(error), " or ".join(settings.track)
        raise SurroundingsError(f"{names} cannot start: {reason}", hint="wandb login, WANDB_MODE=offline, or MLFLOW_TRACKING_URI=FOLDER.") from error
    return list(accelerator.trackers)
