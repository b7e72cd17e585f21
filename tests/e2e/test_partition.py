"""A node cut off for half a minute (longer ones: `python -m tests.soak.partition`)."""

from tests.e2e import isolation
from tests.e2e.lab import LabHandle


def test_a_node_that_was_cut_off_is_right_again_and_restarted_nothing(lab: LabHandle) -> None:
    with isolation.arranged(lab):
        isolation.cut_off(lab, 30)
