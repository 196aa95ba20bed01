"""Shapes and types of every annotated function of descant are checked while the tests run."""

import os

from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")
install_import_hook("descant", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)  # tiny models: a second thread only waits for the first
