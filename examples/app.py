"""A page where one drops an image and sees what teacher and student make of it, per group of classes, with latency.
Of networks that give each pixel a class it shows where in the image they see which.

python examples/app.py --student student --teacher teacher --examples images

As a Space: upload this file as app.py, beside it a requirements.txt with torch and transformers, and set the variables
STUDENT, TEACHER and, for networks that bring their own code, TRUST_REMOTE_CODE=1. `hf_ltkd` is not needed there.
"""

import argparse
import colorsys
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
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image, ImageOps
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    PreTrainedModel,
)
from transformers.image_processing_utils import BaseImageProcessor


try:
    import hf_ltkd  # noqa: F401  # where it is installed, its networks load without their own code
except ImportError:
    pass

# Of a stranger's file only these are tried: Pillow can hand others to programs such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000  # 150 MB in memory; no photograph of a telephone's default setting has as many
COLORS = ("#0072b2", "#56b4e9", "#e69f00")  # of head, medium and tail; from the start again for more groups
OVERLAY_SIDE = 640  # pixels of the longer side of an image that classes are drawn on
OVERLAY_OPACITY = 0.6  # of their colours, so that the image is seen below
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
            config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
            of_pixels = any(saved_as.endswith("ForSemanticSegmentation") for saved_as in config.architectures or [])
            auto_class = AutoModelForSemanticSegmentation if of_pixels else AutoModelForImageClassification
            model = auto_class.from_pretrained(name, trust_remote_code=trust_remote_code)
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

    @property
    def of_pixels(self) -> bool:
        """Whether it gives each pixel a class."""
        return type(self.model).__name__.endswith("ForSemanticSegmentation")

    def seen(self, image: Image.Image) -> Image.Image:
        """The part of an image that it sees."""
        if not getattr(self.processor, "do_center_crop", False):
            return image
        size, crop = self.processor.size, self.processor.crop_size
        edge = size.get("shortest_edge")
        scale = [edge / min(image.size)] * 2 if edge else [size["width"] / image.width, size["height"] / image.height]
        width, height = crop["width"] / scale[0], crop["height"] / scale[1]
        left, top = (image.width - width) / 2, (image.height - height) / 2
        return image.crop((round(left), round(top), round(left + width), round(top + height)))

    @torch.inference_mode()
    def ask(self, image: Image.Image) -> tuple[torch.Tensor, float]:
        """
        Logits `[classes]` or, of pixels, `[classes, height, width]`, and the median milliseconds of a forward pass on
        this one image.
        """
        inputs = self.processor(image, return_tensors="pt").to(self.model.dtype)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            logits = self.model(**inputs).logits
            seconds.append(time.perf_counter() - start)
        return logits[0].float(), 1000 * statistics.median(seconds)


def check_labels(teacher: Classifier, student: Classifier) -> None:
    """Raises a `ValueError` if the two do not tell apart the same classes in the same order."""
    advice = "give the teacher that the student was trained with."
    if teacher.of_pixels != student.of_pixels:
        one, other = ("teacher", "student") if teacher.of_pixels else ("student", "teacher")
        raise ValueError(f"The {one} gives each pixel a class, the {other} each image one: {advice}")
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
        model (`name`, `group`, training `count`, `probabilities` by model). Of networks for pixels probabilities are
        means over the pixels; models also have the `image` that they see, small, and the class `ids` of its pixels,
        and `classes` are all that a model sees there, by group, with their `pixels` by model, a share.
    """
    labels, models, rows, shares, image = classifiers[-1].labels, [], [], [], to_rgb(image)
    for classifier in classifiers:
        logits, milliseconds = classifier.ask(image)
        overlay: dict[str, Any] = {}
        if classifier.of_pixels:
            small = classifier.seen(image).copy()
            small.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
            size = (small.height, small.width)
            ids = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(0)
            shares.append(ids.flatten().bincount(minlength=len(labels)) / ids.numel())
            overlay = {"image": small, "ids": ids.numpy()}
        probabilities = logits.softmax(0).flatten(1).mean(1) if overlay else logits.softmax(0)
        rows.append(probabilities)
        models.append(
            {
                "role": classifier.role,
                "name": classifier.name,
                "best": labels[int(probabilities.argmax())],
                "milliseconds": milliseconds,
                "parameters": sum(p.numel() for p in classifier.model.parameters()),
                "megabytes": sum(t.nbytes for t in classifier.model.state_dict().values()) / 1e6,
                **overlay,
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
    if shares:
        pixels, order = torch.stack(shares), groups["group_of_class"] if groups else [0] * len(labels)
        seen = sorted(pixels.amax(0).nonzero().flatten().tolist(), key=lambda i: (order[i], -pixels[:, i].max()))
        class_rows = [
            {
                "id": i,
                "name": labels[i],
                "group": group_of_class[i],
                "count": counts[i],
                "pixels": pixels[:, i].tolist(),
            }
            for i in seen
        ]
        return {"models": models, "groups": group_rows, "classes": class_rows}
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


def colors_of(number: int) -> list[str]:
    """Colours that are easily told apart: hues a golden angle from each other, in three kinds of brightness."""
    colors = [
        colorsys.hsv_to_rgb(0.618 * i % 1, (0.9, 0.6, 0.8)[i % 3], (0.95, 1, 0.65)[i % 3]) for i in range(number)
    ]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in color) for color in colors]


def in_legend(name: str, group: str | None) -> str:
    """What a class is called beside its colour."""
    return f"{group}: {name}" if group else name


def overlay_of(model: dict[str, Any], classes: list[dict[str, Any]]) -> Any:
    """The image that a network sees, and where in it each of these classes is, for `gr.AnnotatedImage`."""
    masks = [(model["ids"] == entry["id"], in_legend(entry["name"], entry["group"])) for entry in classes]
    return model["image"], [(OVERLAY_OPACITY * mask, label) for mask, label in masks if mask.any()]


def present(comparison: dict[str, Any]) -> list[Any]:
    """
    What the parts of the page show: for each network its likeliest classes, or an overlay of all of them, then groups,
    if any, the table of the networks, and for pixels that of the classes.
    """
    models, groups, more = comparison["models"], comparison["groups"], []
    if "ids" in models[0]:
        shown = [overlay_of(model, comparison["classes"]) for model in models]
        rows = [
            [entry["group"] or "", entry["name"], f"{entry['count']:,}" if entry["count"] else ""]
            + [f"{100 * part:.2f}" for part in entry["pixels"]]
            for entry in comparison["classes"]
        ]
        more = [rows]
    else:
        labels = []
        for entry in comparison["classes"]:
            count = f"{entry['count']:,} in training" if entry["count"] else None
            details = ", ".join(filter(None, (entry["group"], count)))
            labels.append(f"{entry['name']} ({details})" if details else entry["name"])
        probabilities = [entry["probabilities"] for entry in comparison["classes"]]
        shown = [dict(zip(labels, column, strict=True)) for column in zip(*probabilities, strict=True)]
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
    return [*shown, *([pd.DataFrame(bars)] if groups else []), table, *more]


def build_page(classifiers: list[Classifier], groups: dict[str, Any] | None, examples: list[str]) -> gr.Blocks:
    def show(upload: dict[str, Any] | None) -> list[Any]:
        try:
            if upload:
                return present(compare(read_image(upload["path"]), classifiers, groups))
        except ValueError as error:
            gr.Warning(str(error))
        return [None] * len(parts)  # not the result of the image before

    of_pixels, labels = classifiers[-1].of_pixels, classifiers[-1].labels
    order = [classifier.role for classifier in classifiers]
    of_class = [groups["names"][group] for group in groups["group_of_class"]] if groups else [None] * len(labels)
    class_colors = dict(zip(map(in_legend, labels, of_class), colors_of(len(labels)), strict=True))

    # Names come from users: no part below takes HTML or Markdown.
    with gr.Blocks(title="Teacher and student", analytics_enabled=False) as page:
        gr.Markdown(
            "# Teacher and student on one image\n"
            "Drop an image to see how each network spreads its probability over frequent and rare classes"
            + (", and where in the image it sees them." if of_pixels else ".")
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.Image(label="Image", height=300, elem_id="image")
                if examples:
                    gr.Examples(examples, image, cache_examples=False, examples_per_page=15)
            with gr.Column(scale=3, min_width=320):
                parts: list[Any] = []
                with gr.Row():
                    for classifier in classifiers:
                        who = f"{classifier.role.title()}: {classifier.name}"
                        if of_pixels:
                            parts.append(gr.AnnotatedImage(label=who, color_map=class_colors, min_width=280))
                        else:
                            parts.append(gr.Label(label=who, num_top_classes=5, min_width=240))
                names = groups["names"] if groups else []
                if groups:
                    title = "Probability of all classes in a group, from the most frequent to the rarest"
                    title += ", mean over the pixels" if of_pixels else ""
                    colors = dict(zip(names, itertools.cycle(COLORS), strict=False))
                    axes: dict[str, Any] = {"x": "network", "y": "probability", "color": "group", "x_title": " "}
                    parts.append(gr.BarPlot(**axes, color_map=colors, y_lim=[0, 1], sort=order, label=title))
                headers = ["network", *(f"{name}, %" for name in names), "ms", "parameters", "MB"]
                parts.append(gr.Dataframe(headers=headers, label="ms: this image alone, the median of five passes"))
                if of_pixels:
                    headers = ["group", "class", "training pixels", *(f"{role}, % of pixels" for role in order)]
                    parts.append(gr.Dataframe(headers=headers, label="Classes that are seen in this image"))
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
