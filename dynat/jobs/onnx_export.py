"""A network as ONNX, checked against the network itself before anything is written.

The file computes the same sums in float32 in another order, so its logits cannot be equal bit for bit. How far they may
be off follows from the network: the rounding error of PyTorch's own float32 logits is measured against float64, and
another float32 computation may be FACTOR times as far from float64. The error of a sum of n terms grows like the square
root of n over the number of accumulators; kernels have 1 to 64 of them (four vectors of 16), and the square root of 64
is 8. A wrong weight, a missing normalization or a BatchNorm in training mode is orders of magnitude outside.
"""

from __future__ import annotations

import copy
import logging
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from dynat.checkpoints.network import build_network
from dynat.checkpoints.weights import fill
from dynat.report.model_card import OnnxFile
from dynat.results.records import RunMetrics
from dynat.runtime.errors import UserError

OPSET = 18
FACTOR = 8
BATCHES = [1, 7, 24]
"""Batches of the check: the number of images must not be fixed in the file."""
INSTALL = (
    "ONNX export needs onnx, onnxscript and onnxruntime; in the folder of dynat: uv pip install --constraint "
    "requirements.lock --constraint requirements-dev.lock --editable '.[onnx]'"
)


def to_onnx(metrics: RunMetrics, weights: bytes, file: str) -> tuple[OnnxFile, bytes]:
    """The network with these weights (the content of a safetensors file) as ONNX."""
    data = metrics.dataset
    network = build_network(metrics.config, classes=len(data.classes), channels=data.channels, size=data.size)
    fill(network, load(weights), Path(file))
    network.eval()
    model = converted(network, (data.channels, *data.size))
    return checked(network, model, (data.channels, *data.size), file), model


def converted(network: nn.Module, shape: tuple[int, int, int]) -> bytes:
    """The network as an ONNX model with any number of images."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{INSTALL} ({error})") from None
    quiet = logging.getLogger("onnxscript"), logging.getLogger("torch.onnx")
    levels = [logger.level for logger in quiet]
    try:
        for logger in quiet:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (torch.rand(2, *shape),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"torch cannot write this network as ONNX ({type(error).__name__}: {reason})") from error
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def checked(network: nn.Module, model: bytes, shape: tuple[int, int, int], file: str) -> OnnxFile:
    """How far the ONNX model's logits are from the network's; `UserError` if farther than rounding explains."""
    images = torch.rand(sum(BATCHES), *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = copy.deepcopy(network).double()(images.double())
        plain = torch.cat([network(batch) for batch in torch.split(images, BATCHES)])
    rounding = float((plain - exact).abs().max())
    smallest = float(exact.abs().max()) * torch.finfo(torch.float32).eps / 2
    tolerance = FACTOR * max(rounding, smallest)
    difference = float((_logits(model, images) - exact).abs().max())
    if not difference <= tolerance:
        raise UserError(
            f"{file}: the logits of the ONNX file differ from the network's by {difference:.2g}; rounding explains "
            f"{tolerance:.2g}. It was not written"
        )
    return OnnxFile(file, OPSET, len(images), difference, tolerance, rounding)


def _logits(model: bytes, images: Tensor) -> Tensor:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"images": batch.numpy()})[0] for batch in torch.split(images, BATCHES)]
    return torch.from_numpy(np.concatenate(parts)).double()
