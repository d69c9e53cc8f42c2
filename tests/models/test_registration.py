"""After `import hf_ltkd` alone, in either order with transformers, its networks load like Transformers' own."""

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


@pytest.mark.slow  # hub/test_push.py has one order in every run
@pytest.mark.parametrize("imports, use", CASES)
def test_a_folder_loads(tmp_path, imports, use):
    """In a fresh process without a network, where nothing of hf_ltkd has been imported."""
    create_model("resnet8", 3, image_size=8).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}'
    )
    command = [sys.executable, "-c", f"folder = {str(tmp_path)!r}\n{imports}\n{USES[use]}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "hf_ltkd.models.cifar_resnet", done.stderr[-2000:]
