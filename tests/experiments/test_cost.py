"""The plan that is said before anything runs."""

from cost import counts_of, work_of
from experiment import make_experiment
from job import read_json_lines
from plan import plan
from tiny import FOLDER, TINY


def test_plan_without_running(start, tmp_path, capsys):
    start(tmp_path, "--dry_run", cost=True)
    text = capsys.readouterr().out
    assert "Runs        7, of which 0 are done" in text and "seed 0 1 of Student, LTKD, ReviewKD" in text
    for kind in ("teacher resnet8x2, batch 16", "student resnet8 by logits, batch 16", "by reviewkd from resnet8x2"):
        assert kind in text
    assert not (tmp_path / "results.jsonl").exists() and not (tmp_path / "teachers").exists()
    speeds = {line["kind"]: line["examples_per_second"] for line in read_json_lines(tmp_path / "speeds.jsonl")}
    assert len(speeds) == 5 and min(speeds.values()) > 0
    before = (tmp_path / "speeds.jsonl").read_text()
    start(tmp_path, "--dry_run", cost=True)
    assert (tmp_path / "speeds.jsonl").read_text() == before  # measured once


def test_images_to_train_on():
    """Counted by hand: 70 an epoch; 2 epochs; the teacher once, 2 seeds of each student."""
    experiment = make_experiment({**TINY}, "tiny", FOLDER)
    work = work_of(experiment, [cell.run for cell in plan(experiment)])
    assert {kind: images for kind, (_, images) in work.items()} == {
        "teacher resnet8x2, batch 16": 140,
        "logits of resnet8x2": 140,
        "student resnet8, batch 16": 280,
        "student resnet8 by logits, batch 16": 280,
        "student resnet8 by reviewkd from resnet8x2, batch 16": 280,
    }


def test_images_of_another_rule():
    experiment = make_experiment({**TINY, "data": {**TINY["data"], "split_rule": "ldam"}}, "tiny", FOLDER)
    counts = counts_of(experiment, plan(experiment)[0].run, None)
    assert counts == [int(20 * 4 ** (-c / 5)) for c in range(6)]


def test_without_the_number_of_images_they_are_counted(start, images, tmp_path, capsys):
    """A sweep on data of one's own: 70 images, 3 epochs that `max_steps` sets, a given teacher that is asked once."""
    flags = ["--losses", "kd", "--teacher", images / "teacher0", "--imbalance_factors", "4", "--dry_run"]
    flags += ["--data", "label_column=colour", "image_size=8", "crop_padding=1", "--seeds", "0"]
    flags += ["--training", "per_device_train_batch_size=14", "max_steps=15", "use_cpu=true"]
    start(tmp_path, *flags, experiment=None, cost=True)
    speeds = read_json_lines(tmp_path / "speeds.jsonl")
    kinds = ["student resnet8 by logits, batch 14", f"logits of {images / 'teacher0'}"]
    assert [line["kind"] for line in speeds] == kinds
    text = " ".join(capsys.readouterr().out.split())
    rate = speeds[0]["examples_per_second"]
    assert f"batch 14: {rate:,.0f} images/s in a few steps, {3 * 70 / rate:.0f} s in all" in text
