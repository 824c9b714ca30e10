"""Pipelines by name. Coefficients follow from the sizes of the model and the speed of the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gllm.apps.simulate.h200 import FURTHER_TOKEN, LAYER_STEPS
from gllm.apps.simulate.hardware import Hardware, StageTimes
from gllm.worker.piece_sizes import MOST_TOKENS, piece_sizes


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model on a kind of device, one device a stage. Times are seconds."""

    about: str
    layers: int
    launch: float
    """Time of a step on a stage, without its layers."""
    launch_layer: float
    """Time of a step for each layer: launches and small kernels."""
    weights: float
    """Reading a layer's weights."""
    token: float
    """A token's products in a layer."""
    pair: float
    """Attention of a prompt token to a context token in a layer."""
    context: float
    """Reading the KV of a context token in a layer."""
    head: float
    """Reading the LM head's weights."""
    sample: float
    """The LM head and sampling for one row."""
    device_memory: float
    """Bytes for weights and KV on a device."""
    layer_bytes: float
    kv_bytes: float
    """Bytes of KV of one token in one layer."""
    transfer: float
    transfer_per_token: float
    prepare: float
    """Host time to prepare a step on a stage."""
    prepare_layer: float
    """The same, for each layer."""
    eager_layer: float = 0.0
    """Host time for each layer to launch a step with prefill kernel by kernel."""
    step_sizes: tuple[int, ...] = ()
    """Numbers of tokens for which steps with prefill are captured."""
    steps: tuple[float, ...] = ()
    """Measured times of a layer's products, see `StageTimes.steps`. Empty: from `weights` and `token`."""

    def hardware(self, pp: int, *, eager: bool = False) -> Hardware:
        """Return the pipeline of `pp` stages. Raises ValueError if the model does not fit.

        eager: steps with prefill are launched kernel by kernel; otherwise they are captured.
        """
        split = self.split(pp)
        most = max(split)
        room = self.device_memory - most * self.layer_bytes
        kv_tokens = int(room / (most * self.kv_bytes))
        if kv_tokens < 4096:
            raise ValueError(f"{self.about} does not fit {pp} stages: take more")
        return Hardware(
            stages=tuple(self._stage(layers, last=stage == pp - 1) for stage, layers in enumerate(split)),
            kv_tokens=kv_tokens,
            transfer=self.transfer,
            transfer_per_token=self.transfer_per_token,
            prepare=self.prepare + most * self.prepare_layer,
            eager=most * self.eager_layer if eager else 0.0,
            step_sizes=() if eager else self.step_sizes,
        )

    def split(self, pp: int) -> list[int]:
        """Return the layers of each stage: the split with the least time of the slowest stage at a small decode batch.

        The last stage also has the LM head. Raises ValueError.
        """
        if not 1 <= pp <= self.layers:
            raise ValueError(f"{self.about} has {self.layers} layers: pp must be from 1 to that, not {pp}")
        if pp == 1:
            return [self.layers]
        layer = self.launch_layer + self.weights
        last = min(
            range(1, self.layers // pp + 1),
            key=lambda last: (max(layer * -(-(self.layers - last) // (pp - 1)), layer * last + self.head), -last),
        )
        each, more = divmod(self.layers - last, pp - 1)
        return [each + (stage < more) for stage in range(pp - 1)] + [last]

    def _stage(self, layers: int, *, last: bool) -> StageTimes:
        return StageTimes(
            a=self.launch + layers * self.launch_layer + (self.head if last else 0.0),
            floor=layers * self.weights,
            b=layers * self.token,
            steps=tuple(layers * seconds for seconds in self.steps),
            c=layers * self.pair,
            d=layers * self.context,
            e=self.sample if last else 0.0,
        )


# Qwen2.5-32B: 64 layers of 0.485 G parameters, hidden 5120, 8 KV heads of 128, vocabulary 152064, bf16. Activations and
# residual are 20 KB a token. H200: measured times of a layer; attention as measured with FlashInfer, 512 TFLOP/s for
# chunks of a long prompt and 3.7 TB/s for decodes; NVLink. The host time of an eager layer is fitted to six served
# loads (docs/simulator.md).
_H200 = Preset(
    about="Qwen2.5-32B, one H200 a stage",
    layers=64, launch=0.3e-3, launch_layer=20e-6, weights=0.262e-3, token=FURTHER_TOKEN, pair=4.0e-11, context=1.11e-9,
    head=0.42e-3, sample=5e-6, device_memory=124e9, layer_bytes=0.97e9, kv_bytes=4096,
    transfer=50e-6, transfer_per_token=0.1e-6, prepare=0.4e-3, prepare_layer=50e-6,
    eager_layer=0.55e-3, step_sizes=tuple(piece_sizes(MOST_TOKENS)), steps=LAYER_STEPS,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "qwen2.5-32b-h200": _H200,
    # As fast in products as an H200, with 3.35 instead of 4.8 TB/s of memory and 80 GB; not measured kernel by kernel.
    "qwen2.5-32b-h100": replace(
        _H200, about="Qwen2.5-32B, one H100 a stage", weights=0.375e-3, context=1.59e-9, head=0.6e-3,
        device_memory=69e9, steps=(),
    ),
    # The same model on the paper's L20-48GB: 85 % of the data sheet's 864 GB/s, 75 % of its 119.5 TFLOP/s; PCIe.
    "qwen2.5-32b-l20": Preset(
        about="Qwen2.5-32B, one L20 a stage",
        layers=64, launch=0.3e-3, launch_layer=20e-6, weights=1.32e-3, token=10.8e-6, pair=3.4e-10, context=6.3e-9,
        head=2.1e-3, sample=27e-6, device_memory=42e9, layer_bytes=0.97e9, kv_bytes=4096,
        transfer=100e-6, transfer_per_token=1.7e-6, prepare=0.4e-3, prepare_layer=50e-6,
    ),
    # SmolLM2-135M: 30 layers of 3.5 M parameters, hidden 576, 3 KV heads of 64, vocabulary 49152, bf16, one core a
    # stage at 200 GFLOP/s (docs/performance.md: 400 to 425 on two) and an estimated 12 GB/s; 512 MB of KV a worker.
    "smollm2-135m-core": Preset(
        about="SmolLM2-135M, one CPU core a stage",
        layers=30, launch=1e-3, launch_layer=30e-6, weights=0.59e-3, token=35e-6, pair=3.3e-8, context=96e-9,
        head=4.7e-3, sample=0.4e-3, device_memory=512e6 + 212e6, layer_bytes=7.1e6, kv_bytes=768,
        transfer=300e-6, transfer_per_token=2e-6, prepare=0.4e-3, prepare_layer=20e-6,
    ),
}  # fmt: skip
