"""The metric's page: `python app.py` opens it on this machine, and a Gradio Space runs it."""

import re
from pathlib import Path
from typing import Any

import evaluate
import gradio as gr
from huggingface_hub import SpaceCard


FOLDER = Path(__file__).parent
METRIC = evaluate.load(str(FOLDER / "group_accuracy.py"), keep_in_memory=True)
COUNTS, GROUPS = "training examples per class", "group of each class, 0 for the first"


def numbers(name: str, text: str) -> list[int]:
    """`"3, 1 2"` or `"[3, 1, 2]"` as a list."""
    values = re.findall(r"[^\s,;\[\]]+", text)
    foreign = [value for value in values if not re.fullmatch(r"-?\d{1,15}", value)]
    if foreign:
        problem = f"must be whole numbers with commas or spaces between them, not {foreign[0][:20]!r}"
        raise gr.Error(f"{name} {problem}.", print_exception=False)
    if not values:
        raise gr.Error(f"{name} are missing: give at least one whole number.", print_exception=False)
    return [int(value) for value in values]


def compute(predictions: str, references: str, classes: str, meaning: str, num_groups: int) -> dict:
    inputs: dict[str, Any] = {
        "predictions": numbers("Predictions", predictions),
        "references": numbers("References", references),
    }
    if meaning == COUNTS:
        inputs |= {"class_counts": numbers("Classes", classes), "num_groups": num_groups}
    else:
        inputs["group_of_class"] = numbers("Classes", classes)
    try:
        return METRIC.compute(**inputs)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


page = gr.Interface(
    compute,
    inputs=[
        gr.Textbox("0, 0, 1, 2, 2, 4, 0", label="Predictions", info="predicted class ids, from 0"),
        gr.Textbox("0, 0, 1, 2, 3, 4, 5", label="References", info="true class ids; -100 is left out"),
        gr.Textbox("900, 300, 60, 30, 10, 5", label="Classes", info="one number for each class"),
        gr.Radio([COUNTS, GROUPS], value=COUNTS, label="The numbers of the classes are"),
        gr.Number(3, precision=0, minimum=1, label="Groups", info="how many to make of training examples per class"),
    ],
    outputs=gr.JSON(label="Results"),
    title="Group accuracy",
    article=SpaceCard.load(FOLDER / "README.md").text.strip().removeprefix("# Group accuracy"),
    flagging_mode="never",
    api_name="compute",
)

if __name__ == "__main__":
    page.launch()
