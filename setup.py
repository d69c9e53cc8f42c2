import re
from pathlib import Path

from setuptools import find_packages, setup


ROOT = Path(__file__).parent

# Read as text: importing the package would need its dependencies before they are installed.
INIT = (ROOT / "hf_ltkd" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "([^"]+)"', INIT, flags=re.MULTILINE)
if VERSION is None:
    raise RuntimeError('hf_ltkd/__init__.py has no line of the form __version__ = "0.1.0": add it.')

INSTALL_REQUIRES = [
    "torch>=2.6",
    # DistillationTrainer overrides Trainer._push_from_checkpoint and sets Trainer._signature_columns: another major
    # version may have neither.
    "transformers>=5.17,<6",
    "datasets>=4.0",
    "accelerate>=1.15",
    "evaluate>=0.4.6",
    "filelock",
    "fsspec",
    "huggingface-hub>=1.0",
    "safetensors",
    "scikit-learn",
    "scipy>=1.15",  # scipy.stats.bootstrap(rng=...)
    "Jinja2",  # with which huggingface-hub fills the model card
    "lazy-loader>=0.4",
    "matplotlib",
    "numpy",
    "Pillow",
    "psutil",
    "pyarrow",
    "PyYAML",
    "tqdm",
    "wrapt",
]

EXAMPLES = ["tokenizers"]  # examples/distill_language_model.py; the quickstart's images come with scikit-learn
EXPERIMENTS = ["MarkupSafe", "optuna"]  # examples/experiments
ONNX = ["onnx", "onnxruntime", "onnxscript"]  # hf-ltkd export
DEMO = ["gradio>=6.0", "pandas"]  # examples/app.py
TIMM = ["timm", "torchvision"]  # teachers and image processors of timm
TUNE = ["optuna"]  # hf-ltkd distill --tune
PEFT = ["peft"]  # adapters as teachers, hf-ltkd train-teacher --peft lora
EXTRAS_REQUIRE = {
    "examples": EXAMPLES,
    "experiments": EXPERIMENTS,
    "onnx": ONNX,
    "demo": DEMO,
    "timm": TIMM,
    "peft": PEFT,
    "tune": TUNE,
    "dev": [
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "mypy",
        "import-linter",
        "pre-commit",
        *EXAMPLES,
        *EXPERIMENTS,
        *ONNX,
        *DEMO,
        *TUNE,
    ],
}

setup(
    name="hf_ltkd",
    version=VERSION.group(1),
    description="Long-tailed knowledge distillation for the Hugging Face stack",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The hf_ltkd authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords="knowledge distillation, long-tailed recognition, class imbalance, transformers, datasets, accelerate",
    packages=find_packages(include=["hf_ltkd", "hf_ltkd.*"]),
    package_data={
        "hf_ltkd": [
            "py.typed",
            "__init__.pyi",
            "data/__init__.pyi",
            "hub/templates/*.md",
            "losses/published.yaml",
            "metrics/group_accuracy/README.md",
            "metrics/group_accuracy/requirements.txt",
            "metrics/group_mean_iou/README.md",
        ]
    },
    entry_points={"console_scripts": ["hf-ltkd = hf_ltkd.cli.main:main"]},
    python_requires=">=3.10",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    zip_safe=False,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
