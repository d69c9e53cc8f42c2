"""What is done between the steps."""

from hf_ltkd.hub.names import RUN_NAME
from hf_ltkd.trainer.callbacks import Clock
from hf_ltkd.utils import write_json


def test_the_time_of_all_parts_is_added_up(tmp_path, monkeypatch):
    """What was trained after the checkpoint, and is trained again, counts once."""
    now = [100.0]
    monkeypatch.setattr("hf_ltkd.trainer.callbacks.time.monotonic", lambda: now[0])
    clock = Clock()
    assert clock.seconds is None
    clock.start(None)
    now[0] = 107.0
    write_json(tmp_path / RUN_NAME, {"training": {"seconds": clock.seconds}})
    now[0] = 120.0  # killed
    clock = Clock()
    clock.start(str(tmp_path))
    now[0] = 123.0
    clock.stop()
    now[0] = 500.0
    assert clock.seconds == 7 + 3
