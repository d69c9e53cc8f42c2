"""A page where one drops an image and sees what teacher and student make of it, per group of classes, with latency.

python examples/app.py --student student --teacher teacher --examples images

As a Space: upload this file as app.py, beside it a requirements.txt with torch and transformers, and set the variables
STUDENT, TEACHER and, for networks that bring their own code, TRUST_REMOTE_CODE=1. `hf_ltkd` is not needed there.
"""

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from jinja2 import Environment
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor


try:
    import hf_ltkd  # noqa: F401  # where it is installed, its networks load without their own code
except ImportError:
    pass

# Names come from users: whatever stands in double braces is escaped.
RESULT = Environment(autoescape=True).from_string("""
{% macro row(name, detail, probabilities) %}
  <div class="row">
    <div><div class="name">{{ name }}</div><div class="muted">{{ detail }}</div></div>
    <div>
      {% for probability in probabilities %}
        <div class="bar {{ models[loop.index0].role }}">
          <span class="role muted">{{ models[loop.index0].role }}</span>
          <div class="track"><div class="fill" style="width: {{ "%.2f" % (100 * probability) }}%"></div></div>
          <span class="value">{{ "%.1f" % (100 * probability) }} %</span>
        </div>
      {% endfor %}
    </div>
  </div>
{% endmacro %}
<div class="models">
  {% for model in models %}
    <div class="model {{ model.role }}">
      <div class="muted">{{ model.role | title }}: {{ model.name }}</div>
      <div class="name best">{{ model.best }}</div>
      <div class="muted">{{ "%.1f ms, {:,} parameters, %.2f MB".format(model.parameters) % (
        model.milliseconds, model.megabytes) }}</div>
    </div>
  {% endfor %}
</div>
{% if groups %}
  <h3>Groups of classes</h3>
  <p class="muted">A bar is the sum of the probabilities of all classes in the group. The first group holds the classes
    with the most training images, the last those with the fewest. A network biased towards frequent classes fills the
    first bar for images of rare ones too.</p>
  {% for group in groups %}{{ row(group.name, "%d classes" % group.classes, group.probabilities) }}{% endfor %}
{% endif %}
<h3>Likeliest classes</h3>
{% for class in classes %}
  {% set count = "{:,} training images".format(class.count) if class.count else None %}
  {{ row(class.name, [class.group, count] | select | join(", "), class.probabilities) }}
{% endfor %}
<p class="muted">Milliseconds: one forward pass on this image alone, the median of five, on this machine's CPU.</p>
""")
NO_IMAGE = "There is no image to classify yet: drop one into the box."
CSS = """
.models { display: flex; flex-wrap: wrap; gap: 12px; }
.model { flex: 1 1 200px; border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 10px 14px; }
.model.teacher { border-top: 4px solid #8c8c8c; }
.model.student { border-top: 4px solid #e69f00; }
.row { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 14px; padding: 8px 0; }
.row { border-bottom: 1px solid var(--border-color-primary); }
.row > :first-child { flex: 1 1 9em; }
.row > :last-child { flex: 4 1 240px; }
.bar { display: flex; align-items: center; gap: 8px; line-height: 1.4; font-variant-numeric: tabular-nums; }
.role { width: 4em; }
.track { flex: 1; height: 12px; border-radius: 3px; background: rgba(128, 128, 128, 0.15); }
.fill { height: 100%; border-radius: 3px; }
.teacher .fill { background: #8c8c8c; }
.student .fill { background: #e69f00; }
.value { width: 4em; text-align: right; }
.name { font-weight: 600; overflow-wrap: anywhere; }
.best { font-size: 1.25em; }
.muted { font-size: 0.9em; opacity: 0.75; overflow-wrap: anywhere; }
h3 { margin: 20px 0 2px; }
"""


@dataclass
class Classifier:
    """A network with its image processor; `role` is `"teacher"` or `"student"`."""

    role: str
    name: str
    model: PreTrainedModel
    processor: BaseImageProcessor

    @classmethod
    def load(cls, role: str, name: str, trust_remote_code: bool = False) -> "Classifier":
        """Raises a `ValueError` if the folder or repository holds no image classifier with its image processor."""
        try:
            model = AutoModelForImageClassification.from_pretrained(name, trust_remote_code=trust_remote_code)
            processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"The {role} {name!r} is no image classifier with an image processor: {reason}"
            ) from error
        return cls(role, Path(name).resolve().name if os.path.isdir(name) else name, model.eval(), processor)

    @property
    def labels(self) -> list[str]:
        return [self.model.config.id2label[class_id] for class_id in range(self.model.config.num_labels)]

    @torch.inference_mode()
    def classify(self, image: Image.Image) -> tuple[torch.Tensor, float]:
        """The probability of each class, and the median milliseconds of a forward pass on this one image."""
        inputs = self.processor(image, return_tensors="pt").to(self.model.dtype)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            logits = self.model(**inputs).logits
            seconds.append(time.perf_counter() - start)
        return logits[0].float().softmax(-1), 1000 * statistics.median(seconds)


def check_labels(teacher: Classifier, student: Classifier) -> None:
    """Raises a `ValueError` if the two do not tell apart the same classes in the same order."""
    advice = "give the teacher that the student was trained with."
    if len(teacher.labels) != len(student.labels):
        raise ValueError(f"The teacher has {len(teacher.labels)} classes, the student {len(student.labels)}: {advice}")
    for class_id, (name, other) in enumerate(zip(teacher.labels, student.labels, strict=True)):
        if name != other and f"LABEL_{class_id}" not in (name, other):  # the latter is a class without a name
            raise ValueError(f"Class {class_id} is {name!r} for the teacher and {other!r} for the student: {advice}")


def load_groups(student: str, num_classes: int) -> dict[str, Any] | None:
    """The `class_groups.json` of a student, or `None`; a `ValueError` if it is not of `num_classes` classes."""
    path = Path(student) / "class_groups.json"
    if not os.path.isdir(student):
        try:
            path = Path(hf_hub_download(student, path.name))
        except EntryNotFoundError:
            return None
    if not path.exists():
        return None
    groups = json.loads(path.read_text(encoding="utf-8"))
    if len(groups["group_of_class"]) != num_classes:
        raise ValueError(
            f"class_groups.json of the student {student!r} is of {len(groups['group_of_class'])} classes, the student "
            f"has {num_classes}: save the groups that it was trained with."
        )
    return groups


def compare(image: Image.Image, classifiers: list[Classifier], groups: dict[str, Any] | None) -> dict[str, Any]:
    """
    What teacher and student, or the student alone, make of one image.

    Returns:
        `dict`: `models` (`role`, `name`, `best` class, `milliseconds`, `parameters`, `megabytes`), `groups` (`name`,
        number of `classes`, `probabilities` by model; empty without groups), and `classes`, the five likeliest of each
        model (`name`, `group`, training `count`, `probabilities` by model).
    """
    labels, models, rows = classifiers[-1].labels, [], []
    for classifier in classifiers:
        probabilities, milliseconds = classifier.classify(image.convert("RGB"))
        rows.append(probabilities)
        models.append(
            {
                "role": classifier.role,
                "name": classifier.name,
                "best": labels[int(probabilities.argmax())],
                "milliseconds": milliseconds,
                "parameters": sum(p.numel() for p in classifier.model.parameters()),
                "megabytes": sum(t.nbytes for t in classifier.model.state_dict().values()) / 1e6,
            }
        )
    table = torch.stack(rows)  # [models, classes]
    group_rows, group_of_class, counts = [], [None] * len(labels), [None] * len(labels)
    if groups is not None:
        counts = groups["class_counts"] or counts
        group_of_class = [groups["names"][group] for group in groups["group_of_class"]]
        for name in groups["names"]:
            members = [class_id for class_id, group in enumerate(group_of_class) if group == name]
            sums = table[:, members].sum(1).tolist()
            group_rows.append({"name": name, "classes": len(members), "probabilities": sums})
    likeliest = set(table.topk(min(5, len(labels))).indices.flatten().tolist())
    class_rows = [
        {"name": labels[i], "group": group_of_class[i], "count": counts[i], "probabilities": table[:, i].tolist()}
        for i in sorted(likeliest, key=lambda i: -table[:, i].max())
    ]
    return {"models": models, "groups": group_rows, "classes": class_rows}


def read_image(path: str) -> Image.Image:
    """An image file, upright and in RGB; a `ValueError` if it is none."""
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # whatever Pillow raises
        raise ValueError("This file cannot be read as an image: give a PNG, JPEG or WebP file.") from error


def build_page(classifiers: list[Classifier], groups: dict[str, Any] | None, examples: list[str]) -> gr.Blocks:
    def show(upload: dict[str, Any] | None) -> str:
        try:
            return RESULT.render(compare(read_image(upload["path"]), classifiers, groups)) if upload else NO_IMAGE
        except ValueError as error:
            gr.Warning(str(error))
            return NO_IMAGE  # not the result of the image before

    with gr.Blocks(title="Teacher and student", analytics_enabled=False) as page:
        gr.Markdown(
            "# Teacher and student on one image\n"
            "Drop an image to see how each network spreads its probability over frequent and rare classes."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.Image(label="Image", height=300, elem_id="image")
                if examples:
                    gr.Examples(examples, image, cache_examples=False, examples_per_page=15)
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(NO_IMAGE, css_template=CSS, elem_id="result")
        # Gradio's own reading of the file would fail without an explanation: `show` gets the upload as it is.
        image.change(show, image, result, preprocess=False, api_name="compare")
    return page


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", default=os.environ.get("STUDENT"), help="folder or Hub id (default: $STUDENT)")
    parser.add_argument("--teacher", default=os.environ.get("TEACHER"), help="folder or Hub id (default: $TEACHER)")
    parser.add_argument("--examples", help="a folder of images to choose from")
    parser.add_argument(
        "--trust_remote_code",
        action="store_true",
        default=os.environ.get("TRUST_REMOTE_CODE") == "1",
        help="run the code that a model brings; read it first (default: whether $TRUST_REMOTE_CODE is 1)",
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="make a public link, through Gradio's servers")
    options = parser.parse_args()
    if not options.student:
        parser.error("give --student, or set the variable STUDENT: the folder or Hub id of a trained classifier")
    examples = []
    if options.examples:
        files = Path(options.examples).glob("*")
        examples = sorted(str(file) for file in files if file.suffix.lower() in Image.registered_extensions())
        if not examples:
            parser.error(f"--examples {options.examples} must be a folder with images")
    try:
        student = Classifier.load("student", options.student, options.trust_remote_code)
        classifiers = [student]
        if options.teacher:
            classifiers.insert(0, Classifier.load("teacher", options.teacher, options.trust_remote_code))
            check_labels(*classifiers)
        groups = load_groups(options.student, len(student.labels))
    except ValueError as error:
        parser.error(str(error))
    compare(Image.new("RGB", (64, 64)), classifiers, groups)  # a first pass is slower than those that are timed
    page = build_page(classifiers, groups, examples)
    page.launch(
        server_port=options.port,
        share=options.share,
        max_file_size="20mb",
        # Gradio 6.31 ships a font of weight 600 that holds two letters; browsers take 700 in its place.
        theme=gr.themes.Default(font=[gr.themes.LocalFont("Source Sans Pro", (400, 700)), "sans-serif"]),
        # Small images fill the box too, and the result stands level with it.
        css="#image img {width: 100%; height: 100%; object-fit: contain} #result .html-container {padding: 0}",
    )


if __name__ == "__main__":
    main()
