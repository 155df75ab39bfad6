"""Package definition; the wheel contains `configs/` and `model_zoo/`, so that commands work outside a checkout."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
SHIPPED_FOLDERS = {"configs": "_configs", "model_zoo": "_model_zoo"}  # top-level folder -> folder inside the package


class BuildWithConfigs(build_py):
    """Copies the shipped folders into the built package."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # an editable install reads the folders of the checkout
            return
        for source, inside in SHIPPED_FOLDERS.items():
            target = Path(self.build_lib) / "mrcnn_zoo" / inside
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(HERE / source, target, ignore=shutil.ignore_patterns("pictures"))


REQUIREMENTS = [
    "torch>=2.8",
    "torchvision>=0.23",
    "fvcore>=0.1.5.post20221221",  # FLOPs of analyze-model; reference of tests
    "iopath>=0.1.9",
    "portalocker>=2.0",
    "yacs>=0.1.8",
    "pycocotools>=2.0.7",
    "tabulate>=0.9",
    "wandb>=0.17",
    "tensorboard>=2.12",
    "matplotlib>=3.6",
    "contourpy>=1.0.6",  # outlines of masks; required by matplotlib, too
    "numpy>=1.24",
    "scipy>=1.10",  # distributions of the statistics; MultiBox's matching
    "pillow>=9.4",
    "rich>=13.0",
    "pyyaml>=6.0",
    "typing_extensions>=4.6",
    "safetensors>=0.4",
]
EVALUATION_BACKENDS = ["hotcoco>=1.3", "faster-coco-eval>=1.6"]
TIMM = ["timm>=1.0"]  # backbones
KERAS = ["h5py>=3.8"]  # matterport's .h5 weights
TIFF = ["tifffile>=2023.1"]  # multi-channel images
PROPOSALS = ["opencv-contrib-python-headless>=4.8"]  # selective search, EdgeBoxes
SEARCH = ["optuna>=4.0"]  # sweep search
SLURM = ["submitit>=1.5"]  # sweeps on a cluster
FORMAT_CHECKS = ["supervision>=0.25", "shapely>=2.0", "scikit-image>=0.22"]  # read what we write, and the reverse
VIDEO = ["av>=12.0"]  # predict on videos and cameras
TABLES = ["pandas>=2.0"]  # Prediction.to_dataframe
ONNX = ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20"]  # exported models
INT8 = ["torchao>=0.18"]  # MODEL.OPTIMIZE int8, with torch 2.14
BROWSER = ["playwright>=1.40"]  # drives an installed Chromium in the tests of HTML pages
CHECKS = ["pytest>=7.4", "pytest-xdist>=3.5", "ruff>=0.6", "mypy>=1.8"]

setup(
    name="mrcnn_zoo",
    version="0.1.0",
    description="Mask R-CNN as a modular, config-driven framework: registries, YAML files, COCO tables.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["mrcnn_zoo", "mrcnn_zoo.*"]),
    package_data={"mrcnn_zoo": ["py.typed", "data/synthetic/resources/*", "inspection/resources/*"]},
    include_package_data=False,
    install_requires=REQUIREMENTS,
    extras_require={
        "eval": EVALUATION_BACKENDS,
        "timm": TIMM,
        "keras": KERAS,
        "tiff": TIFF,
        "proposals": PROPOSALS,
        "search": SEARCH,
        "slurm": SLURM,
        "video": VIDEO,
        "tables": TABLES,
        "onnx": ONNX,
        "int8": INT8,
        "dev": [
            *(*CHECKS, *BROWSER, *FORMAT_CHECKS, *EVALUATION_BACKENDS, *TIMM, *KERAS, *TIFF, *PROPOSALS),
            *(*SEARCH, *SLURM, *VIDEO, *TABLES, *ONNX, *INT8),
        ],
    },
    entry_points={"console_scripts": ["mrcnn-zoo=mrcnn_zoo.cli.main:main"]},
    cmdclass={"build_py": BuildWithConfigs},
)
