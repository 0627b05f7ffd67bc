"""Which device and which numbers are chosen, and what is said when a machine has not got them."""

import pytest
import torch

from capt.device import Runtime, choose_device, choose_precision, choose_runtime, choose_training_precision
from capt.errors import InputError
from capt.model import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_best_device(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool, chosen: str) -> None:
    """A CUDA GPU, else Apple's, else the processor."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert choose_device("auto").type == chosen


def test_a_device_may_be_named() -> None:
    """The processor is always there."""
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["warp", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    """The error names the device and the way out."""
    with pytest.raises(InputError, match="--device cpu"):
        choose_device(name)


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"amx_bf16": True}, Precision.BFLOAT16), ({"avx512_bf16": True}, Precision.BFLOAT16), ({"avx2": True}, Precision.FLOAT32)],
)
def test_auto_computes_in_bfloat16_where_the_processor_does(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], precision: Precision
) -> None:
    """Training does; where bfloat16 would only be imitated, float32 is faster."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    assert choose_training_precision("auto", CPU) is precision


@pytest.mark.parametrize(("supported", "precision"), [(True, Precision.BFLOAT16), (False, Precision.FLOAT32)])
def test_auto_asks_the_gpu(monkeypatch: pytest.MonkeyPatch, *, supported: bool, precision: Precision) -> None:
    """An old GPU computes in float32."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: supported)
    assert choose_training_precision("auto", torch.device("cuda")) is precision


def test_captions_are_the_same_on_every_processor() -> None:
    """Captioning computes in float32, whatever the processor could do; on a CUDA GPU in float16, which keeps them as well."""
    assert choose_precision("auto", CPU) is Precision.FLOAT32
    assert choose_precision("auto", torch.device("cuda")) is Precision.FLOAT16


def test_other_devices_compute_in_float32() -> None:
    """What is not known to compute in bfloat16 does not."""
    assert choose_precision("auto", torch.device("mps")) is Precision.FLOAT32
    assert choose_training_precision("auto", torch.device("mps")) is Precision.FLOAT32


def test_a_precision_may_be_named_and_must_exist() -> None:
    """An unknown precision is refused with those that exist."""
    assert choose_precision("float16", CPU) is Precision.FLOAT16
    assert choose_training_precision("bfloat16", CPU) is Precision.BFLOAT16
    with pytest.raises(InputError, match="bfloat16"):
        choose_precision("int3", CPU)


def test_int8_is_for_captioning_by_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for it where it cannot be is told in one sentence; nobody gets other numbers unasked."""
    assert choose_precision("int8", CPU) is Precision.INT8
    with pytest.raises(InputError, match="is for captioning"):
        choose_training_precision("int8", CPU)
    with pytest.raises(InputError, match="torch does not compute in int8"):
        choose_runtime("torch", CPU, Precision.INT8)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'capt\[openvino\]'"):
        choose_runtime("auto", CPU, Precision.INT8)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert choose_runtime("auto", CPU, Precision.INT8) is Runtime.OPENVINO
    with pytest.raises(InputError, match="--device cpu"):
        choose_runtime("auto", torch.device("cuda"), Precision.INT8)


def test_openvino_computes_where_it_is_and_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor, in float32 or bfloat16; not installed, elsewhere or unknown, what to do is one sentence."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert choose_runtime("auto", CPU, Precision.FLOAT32) is Runtime.OPENVINO
    assert choose_runtime("auto", CPU, Precision.FLOAT16) is Runtime.TORCH
    assert choose_runtime("auto", torch.device("cuda"), Precision.FLOAT32) is Runtime.TORCH
    assert choose_runtime("torch", CPU, Precision.FLOAT32) is Runtime.TORCH
    with pytest.raises(InputError, match="--device cpu"):
        choose_runtime("openvino", torch.device("cuda"), Precision.FLOAT32)
    with pytest.raises(InputError, match="auto, torch, openvino"):
        choose_runtime("onnx", CPU, Precision.FLOAT32)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert choose_runtime("auto", CPU, Precision.FLOAT32) is Runtime.TORCH
    with pytest.raises(InputError, match=r"pip install 'capt\[openvino\]'"):
        choose_runtime("openvino", CPU, Precision.FLOAT32)
