"""What Figures 3 and 4 show."""

import shutil

import numpy as np
import pytest
from tiny import lines_of

from hf_ltkd.data import long_tailed_counts


def test_loss_per_group_of_figure_4(whole, start, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (line,) = start(tmp_path, "--seeds", "1", experiment="parts")[7:]
    plain = next(line for line in lines_of(whole) if (line["method"], line["seed"]) == ("LTKD", 1))
    assert line["class_accuracy"] == plain["class_accuracy"]  # looking changes nothing
    losses = {name: np.array(value) for name, value in line["group_losses"].items()}
    assert losses["within"].shape == losses["weighted"].shape == losses["by_label"].shape == (2, 3)
    counts = np.array(long_tailed_counts([20] * 6, 4))
    share = np.array([counts[:2].sum(), counts[2:4].sum(), counts[4:].sum()]) / counts.sum()
    # Eq. 8: the whole KL is the sum of its parts, and the mean over the images of all groups.
    assert losses["cross"] + losses["weighted"].sum(1) == pytest.approx(losses["by_label"] @ share, rel=1e-5)
    assert (losses["by_label"] > 0).all()


def test_group_probabilities_of_figure_3(whole, start, tmp_path):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    (line,) = start(tmp_path, experiment="mass")[7:]
    assert list(line["group_mass"]) == ["temperature 1", "temperature 4"]
    for sums in line["group_mass"].values():
        for name, batches in (("balanced", 120 // 16), ("long_tailed", 70 // 16)):
            assert np.shape(sums[name]) == (batches, 3)
            assert np.sum(sums[name], 1) == pytest.approx(16, abs=0.001)
    spread = [np.ptp(np.mean(sums["balanced"], 0)) for sums in line["group_mass"].values()]
    assert spread[1] < spread[0]  # softened probabilities are flatter
