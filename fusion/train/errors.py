"""How a training stage can end before its time. Every kind has an exit code of its own, that of its ranks."""

from fusion.errors import FusionError


class TrainingError(FusionError):
    """A training stage cannot start, or one of its ranks failed."""


class Preempted(TrainingError):
    """SIGTERM or SIGINT came: the state was saved after a whole step, and the same command continues from there."""

    exit_code = 75  # "try again later", as in BSD's sysexits


class LossGuard(TrainingError):
    """The loss or a gradient is no finite number, or the loss jumped beyond the setting."""

    exit_code = 76


class Stalled(TrainingError):
    """A rank did not finish a step in the time that is allowed."""

    exit_code = 77


class OutOfMemory(TrainingError):
    """A device or the machine has no memory left."""

    exit_code = 78


class NoRoom(TrainingError):
    """There is not enough space on the disk for the state of the stage."""

    exit_code = 79


WHAT_TO_DO = {
    Preempted.exit_code: "was told to stop; its state is saved, and the same command continues",
    LossGuard.exit_code: "was stopped by its guard; the message above says why and which samples were in the step",
    Stalled.exit_code: "stalled; the messages above say what each rank was waiting for",
    OutOfMemory.exit_code: "ran out of memory; the message above says what to change",
    NoRoom.exit_code: "ran out of space on the disk",
    -9: "was killed from outside (signal 9), which is mostly the machine's memory running out: fewer ranks, a smaller "
    "hardware.micro_batch, or activation_checkpointing",
}
"""What the exit code of a rank means, for the sentence `STAGE of VARIANT ...`."""
