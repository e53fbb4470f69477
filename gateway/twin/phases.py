"""The phases an execution can be in, and which may follow which."""

from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """`status.objectStatus.phase` and the phases of sub-objects."""

    PENDING = "Pending"
    RUNNING = "Running"
    PAUSING = "Pausing"
    CANCELLING = "Cancelling"
    FORCE_CANCELLING = "ForceCancelling"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    FORCE_CANCELLED = "ForceCancelled"
    CANCEL_FAILED = "CancelFailed"
    PAUSED = "Paused"


# How an execution may end, and how its sub-objects end that were still running.
SUB_OUTCOMES: Final = {
    Phase.SUCCEEDED: Phase.SUCCEEDED,
    Phase.FAILED: Phase.FAILED,
    Phase.CANCELLED: Phase.CANCELLED,
    Phase.FORCE_CANCELLED: Phase.CANCELLED,
    Phase.CANCEL_FAILED: Phase.FAILED,
    Phase.PAUSED: Phase.PAUSED,
}
# The phase between Running and a requested end.
BEFORE_END: Final = {
    Phase.CANCELLED: Phase.CANCELLING,
    Phase.FORCE_CANCELLED: Phase.FORCE_CANCELLING,
    Phase.CANCEL_FAILED: Phase.CANCELLING,
    Phase.PAUSED: Phase.PAUSING,
}
# Members of the status of an object that has failed.
FAILURES: Final = {
    Phase.FAILED: {
        "message": "The execution failed: modelled failure of an element.",
        "reason": "ExecuteFailed",
    },
    Phase.CANCEL_FAILED: {
        "message": "The execution could not be cancelled: modelled failure.",
        "reason": "CancelFailed",
    },
}
