"""After `import hf_ltkd` alone, in either order with transformers, its networks load like Transformers' own."""

import os
import subprocess
import sys

import pytest

from hf_ltkd import create_model


USES = {
    "model": "print(type(transformers.AutoModelForImageClassification.from_pretrained(folder)).__module__)",
    "config": "print(type(transformers.AutoConfig.from_pretrained(folder)).__module__)",
    "pipeline": """
from PIL import Image
classify = transformers.pipeline("image-classification", model=folder, device="cpu")
classify(Image.new("RGB", (8, 8)))
print(type(classify.model).__module__)
""",
}
CASES = [
    ("import hf_ltkd, transformers", "model"),
    ("import transformers, hf_ltkd", "model"),
    ("import transformers; transformers.AutoConfig; import hf_ltkd", "model"),
    ("import transformers; transformers.AutoModelForImageClassification; import hf_ltkd", "config"),
    ("import hf_ltkd, transformers", "config"),
    ("import hf_ltkd, transformers", "pipeline"),
    ("import transformers; transformers.pipeline; import hf_ltkd", "pipeline"),
]


def run(code, folder):
    """In a fresh process without a network, where nothing of hf_ltkd has been imported."""
    command = [sys.executable, "-c", f"folder = {str(folder)!r}\n{code}"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("imports, use", [CASES[1], pytest.param(*CASES[5], marks=pytest.mark.slow)])
def test_a_folder_loads(tmp_path, imports, use):
    check(tmp_path, [(imports, use)])


@pytest.mark.slow
def test_a_folder_loads_in_every_order(tmp_path):
    check(tmp_path, CASES)


def check(folder, cases):
    create_model("resnet8", 3, image_size=8).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}'
    )
    for imports, use in cases:
        output, errors = run(f"{imports}\n{USES[use]}", folder).communicate()
        assert output.strip() == "hf_ltkd.models.cifar_resnet", (imports, use, errors[-2000:])
