"""A page where one drops an image and sees what teacher and student make of it, per group of classes, with latency.

python examples/app.py --student student --teacher teacher --examples images

As a Space: upload this file as app.py, beside it a requirements.txt with torch and transformers, and set the variables
STUDENT, TEACHER and, for networks that bring their own code, TRUST_REMOTE_CODE=1. `hf_ltkd` is not needed there.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor


try:
    import hf_ltkd  # noqa: F401  # where it is installed, its networks load without their own code
except ImportError:
    pass

# Of a stranger's file only these are tried: Pillow can hand others to programs such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000  # 150 MB in memory; no photograph of a telephone's default setting has as many
COLORS = ("#0072b2", "#56b4e9", "#e69f00")  # of head, medium and tail; from the start again for more groups
TOO_LARGE = f"This image has more than {MAX_PIXELS // 10**6} million pixels: make it smaller first."


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
        probabilities, milliseconds = classifier.classify(to_rgb(image))
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


def to_rgb(image: Image.Image) -> Image.Image:
    """As `pipeline` does, but grey values of 16 and 32 bits are scaled to 0..255, as those of training data are."""
    if image.mode[0] in "IF":
        values = np.nan_to_num(np.asarray(image, dtype=float))
        whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,) if "16" in image.mode else (255.0, 65535.0)
        low, high = values.min(), values.max()
        white = next((white for white in whites if 0 <= low and high <= white), None)
        scaled = values / white if white else (values - low) / (high - low or 1.0)
        image = Image.fromarray(np.rint(255 * scaled).astype(np.uint8))
    return image.convert("RGB")


def read_image(path: str) -> Image.Image:
    """A photograph, upright and in RGB; a `ValueError` if the file is none, or too large."""
    try:
        image = Image.open(path, formats=FORMATS)  # reads no more than its size
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        return to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:  # Pillow's own for twice 89 million
        raise ValueError(TOO_LARGE) from error
    except (OSError, SyntaxError, ValueError) as error:  # whatever Pillow raises
        raise ValueError(f"This file cannot be read as an image: give one of {', '.join(FORMATS)}.") from error


def present(comparison: dict[str, Any]) -> list[Any]:
    """What the parts of the page show: for each network its likeliest classes, then groups, if any, and the table."""
    models, groups = comparison["models"], comparison["groups"]
    labels = []
    for entry in comparison["classes"]:
        count = f"{entry['count']:,} in training" if entry["count"] else None
        details = ", ".join(filter(None, (entry["group"], count)))
        labels.append(f"{entry['name']} ({details})" if details else entry["name"])
    probabilities = [entry["probabilities"] for entry in comparison["classes"]]
    likeliest = [dict(zip(labels, column, strict=True)) for column in zip(*probabilities, strict=True)]
    bars = [
        {"network": model["role"], "group": group["name"], "probability": group["probabilities"][index]}
        for index, model in enumerate(models)
        for group in groups
    ]
    table = [
        [
            model["role"],
            *(f"{100 * group['probabilities'][index]:.1f}" for group in groups),
            f"{model['milliseconds']:.1f}",
            f"{model['parameters']:,}",
            f"{model['megabytes']:.2f}",
        ]
        for index, model in enumerate(models)
    ]
    return [*likeliest, *([pd.DataFrame(bars)] if groups else []), table]


def build_page(classifiers: list[Classifier], groups: dict[str, Any] | None, examples: list[str]) -> gr.Blocks:
    def show(upload: dict[str, Any] | None) -> list[Any]:
        try:
            if upload:
                return present(compare(read_image(upload["path"]), classifiers, groups))
        except ValueError as error:
            gr.Warning(str(error))
        return [None] * len(parts)  # not the result of the image before

    # Names come from users: no part below takes HTML or Markdown.
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
                with gr.Row():
                    parts: list[Any] = [
                        gr.Label(label=f"{c.role.title()}: {c.name}", num_top_classes=5, min_width=240)
                        for c in classifiers
                    ]
                names = groups["names"] if groups else []
                if groups:
                    title = "Probability of all classes in a group, from the most frequent to the rarest"
                    colors = dict(zip(names, itertools.cycle(COLORS), strict=False))
                    axes: dict[str, Any] = {"x": "network", "y": "probability", "color": "group", "x_title": " "}
                    order = [classifier.role for classifier in classifiers]
                    parts.append(gr.BarPlot(**axes, color_map=colors, y_lim=[0, 1], sort=order, label=title))
                headers = ["network", *(f"{name}, %" for name in names), "ms", "parameters", "MB"]
                parts.append(gr.Dataframe(headers=headers, label="ms: this image alone, the median of five passes"))
        # Gradio's own reading of the file would fail without an explanation: `show` gets the upload as it is.
        image.change(show, image, parts, preprocess=False, api_name="compare")
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
        suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
        examples = sorted(str(file) for file in files if file.suffix.lower() in suffixes)
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
        css="#image img {width: 100%; height: 100%; object-fit: contain}",  # small images fill the box too
    )


if __name__ == "__main__":
    main()
