"""A README.md of two authors: what a person wrote stays, what we wrote is written again."""

import pytest
from huggingface_hub import ModelCard

from hf_ltkd import create_model
from hf_ltkd.hub.card import write_model_card
from hf_ltkd.hub.readme import BEGIN, END, read_readme, take_over, write_readme
from hf_ltkd.utils import write_json


OURS = {"library_name": "transformers", "tags": ["hf_ltkd", "long-tailed"], "metrics": ["accuracy"]}


CARD_OF_0_1_0 = """---
license: mit
library_name: transformers
tags: [hf_ltkd, knowledge-distillation, long-tailed]
datasets: [me/old]
model-index: [{name: Old, results: []}]
---

# Old

A classifier trained with the Python package `hf_ltkd`.

## Use

```python
model = AutoModelForImageClassification.from_pretrained("me/old")
```

## Limits

The student takes over what its data get wrong.

## Citation

The groups of classes and the long-tailed splits follow

```bibtex
@inproceedings{kim2026distilling,
  year      = {2026},
  note      = {arXiv:2506.18496}
}
```
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "README.md"


def write(path, text="# It\n\nOur text.", metadata=OURS, **wishes):
    write_readme(path, metadata, text, wishes)
    front, body = read_readme(path)
    assert ModelCard(path.read_text(encoding="utf-8")).data.to_dict() == front  # as the Hub reads it
    return front, body


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_ours_alone(path):
    front, body = write(path)
    assert front == OURS
    assert body.strip().splitlines()[:2] == [BEGIN, ""] and "\n\nOur text.\n\n" + END.partition("{}")[0] in body
    before = path.read_bytes()
    write(path)
    assert path.read_bytes() == before and not list(path.parent.glob("*.tmp"))


def test_what_we_wrote_is_written_again(path):
    write(path, metadata={**OURS, "datasets": ["me/old"]})
    front, body = write(path, "# It\n\nNew text.", {**OURS, "datasets": ["me/new"], "tags": ["hf_ltkd"]})
    assert front == {**OURS, "datasets": ["me/new"], "tags": ["hf_ltkd"]}
    assert "New text." in body and "Our text." not in body and body.count(BEGIN) == 1
    assert "datasets" not in write(path)[0]  # no longer known


def test_what_a_person_wrote_stays(path):
    write(path)
    edit(path, "---\n", "---\nlicense: mit\nwidget: [{src: a.png}]\n")
    edit(path, BEGIN, f"# My title\n\n{BEGIN}")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n## Notes\nWritten by hand: häßlich, 猫.\n---\nmore: of it\n")
    for text in ("# It\n\nSecond.", "# It\n\nThird."):
        front, body = write(path, text)
        assert front == {**OURS, "license": "mit", "widget": [{"src": "a.png"}]}
        assert body.startswith("# My title\n\n<!--")
        assert body.endswith("-->\n\n## Notes\nWritten by hand: häßlich, 猫.\n---\nmore: of it\n")
    assert "Third." in body and "Second." not in body


def test_changed_front_matter_wins_until_the_person_asks_for_other(path):
    write(path, license="mit", tags=["first"])
    assert write(path)[0]["license"] == "mit"  # asked for once
    edit(path, "library_name: transformers", "library_name: mine")
    edit(path, "- first\n", "- first\n- birds\n")
    front, _ = write(path, tags=["hf_ltkd", "second"])
    assert front["library_name"] == "mine" and front["tags"] == ["hf_ltkd", "long-tailed", "first", "birds", "second"]
    assert write(path, license="gpl-3.0")[0]["license"] == "gpl-3.0"


def test_a_readme_of_a_person_alone(path):
    path.write_text("# Mine\n\nAll mine.\n", encoding="utf-8")
    front, body = write(path)
    assert front == OURS and body.startswith(f"# Mine\n\nAll mine.\n\n{BEGIN}\n")
    path.write_text("---\nlicense: mit\ntags: mine\n---\n", encoding="utf-8")  # as the Hub makes it
    front, body = write(path)
    assert front == {**OURS, "license": "mit", "tags": ["mine"]} and body.startswith(BEGIN)


@pytest.mark.parametrize(
    "text", ["\ufeff---\r\nlicense: mit\r\n---\r\n\r\n# Mine\r\n", "\n---\nlicense: mit\n---\n# Mine"]
)
def test_files_of_other_editors(path, text):
    path.write_bytes(text.encode())
    front, body = write(path)
    assert front == {"license": "mit", **OURS} and body.startswith(f"# Mine\n\n{BEGIN}")


def test_marks_that_were_removed(path):
    """Our text without its marks is the person's, except where it is a card as version 0.1.0 wrote it."""
    write(path)
    edit(path, BEGIN, "")
    _, body = write(path, "# It\n\nNew.")
    assert "Our text." in body and "New." in body and body.count(BEGIN) == 1


@pytest.fixture
def student(tmp_path):
    create_model("resnet8", 3, image_size=8).save_pretrained(tmp_path)
    write_json(tmp_path / "eval_results.json", {"eval_accuracy": 0.5})
    return tmp_path


def test_a_card_of_version_0_1_0_is_replaced(student):
    """It had no marks; what a person wrote around it stays."""
    (student / "README.md").write_text(CARD_OF_0_1_0 + "\n## Notes\nMine.\n", encoding="utf-8")
    write_model_card(student, dataset="me/new", model_name="New")
    front, body = read_readme(student / "README.md")
    assert "# Old" not in body and body.count("A classifier trained with") == body.count("## Citation") == 1
    assert body.startswith(f"{BEGIN}\n\n# New") and body.endswith("-->\n\n## Notes\nMine.\n")
    assert front["license"] == "mit" and front["datasets"] == ["me/new"] and front["model-index"][0]["name"] == "New"


def test_numbers_are_those_of_now(student):
    write_model_card(student, dataset="me/data", license="mit")
    write_json(student / "eval_results.json", {"eval_accuracy": 0.75})
    front = ModelCard.load(write_model_card(student, dataset="me/data")).data
    assert front.eval_results[0].metric_value == 0.75 and front.license == "mit"


def test_take_over_from_another_copy(path, tmp_path):
    """From the Hub, where a person wrote too; where both did, this file wins."""
    theirs = tmp_path / "theirs.md"
    for file in (path, theirs):
        write(file)
    edit(theirs, "---\n", "---\nlicense: mit\nlanguage: en\n")
    edit(theirs, BEGIN, f"From the Hub.\n\n{BEGIN}")
    edit(path, "---\n", "---\nlicense: gpl-3.0\n")
    take_over(path, theirs)
    front, body = write(path, "# It\n\nNew.")
    assert front == {**OURS, "license": "gpl-3.0", "language": "en"}
    assert body.startswith(f"From the Hub.\n\n{BEGIN}") and "New." in body
    edit(path, "From the Hub.", "From here.")
    take_over(path, theirs)
    front, body = write(path)
    assert body.startswith("From here.") and "From the Hub." not in body and front["language"] == "en"
    new = tmp_path / "new" / "README.md"
    take_over(new, theirs)
    assert write(new)[1].startswith("From the Hub.")


@pytest.mark.parametrize(
    "content",
    [b"---\nlicense: [mit\n---\n", b"---\n- a\n- b\n---\n", b"---\na: !!python/name:os.system\n---\n", b"\xff\xfe# x"],
)
def test_a_file_that_cannot_be_read_is_named_and_stays(student, content):
    (student / "README.md").write_bytes(content)
    with pytest.raises(ValueError, match="README.md' cannot be read: .*; mend it, or remove it") as error:
        write_model_card(student)
    assert "\n" not in str(error.value) and (student / "README.md").read_bytes() == content
