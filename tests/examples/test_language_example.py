"""The language model's script: a teacher and students on a small text, gone on with, and its table."""

import json

import numpy as np
import pytest
from helpers import load_script, run_script


@pytest.fixture(scope="module")
def script():
    return load_script("distill_language_model.py")


def test_a_run_and_going_on_with_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    words = ["in", "the", "beginning", "was", "a", "word", "and", "it", "rained"]
    lines = [" ".join(rng.choice(words, 5)) for _ in range(1000)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    small = ["--text", tmp_path / "text.txt", "--vocab_size", "270", "--length", "8", "--teacher", "1x32", "--student"]
    small += ["1x32", "--teacher_steps", "1", "--steps", "1", "--batch_size", "4", "--output_dir", tmp_path / "out"]
    run_script("distill_language_model.py", *small, "--methods", "plain", "--seeds", "0")
    run_script("distill_language_model.py", *small, "--methods", "plain", "ltkd:alpha=2", "--seeds", "0")
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == ["teacher", "plain", "ltkd:alpha=2"]
    assert {"loss", "perplexity", "head_loss", "tail_perplexity"} <= set(lines[-1]["metrics"])
    assert str(tmp_path) not in json.dumps(lines)
    assert "| ltkd:alpha=2 | 1 |" in capsys.readouterr().out


def test_table(script):
    """Ratios of perplexities with the interval of a paired t of two differences, 0.1 and 0.3."""
    names = ["", "head_", "medium_", "tail_"]
    losses = {("plain", 0): 2.0, ("plain", 1): 3.0, ("kd", 0): 2.1, ("kd", 1): 3.3}
    lines = [
        {
            "method": method,
            "seed": seed,
            "metrics": {f"{n}{key}": v for n in names for key, v in (("loss", loss), ("perplexity", np.exp(loss)))},
        }
        for (method, seed), loss in losses.items()
    ]
    rows = script.table(lines).splitlines()
    values = np.exp([2.1, 3.3])
    assert f"| kd | 2 | {values.mean():.1f} ± {values.std(ddof=1):.1f} |" in rows[3]
    margin = 12.7062 * 0.2 / 2  # t(0.975, 1) times the difference's standard error, |0.3 - 0.1| / 2
    low, high = np.exp(0.2 - margin), np.exp(0.2 + margin)
    assert f"| kd | 2 | 1.221 ({low:.3f} to {high:.3f}) |" in rows[-1]
