"""The modal recurrence in one Triton kernel a token."""

from __future__ import annotations

from torch import Tensor

from .modal import Modal


class ModalTriton(Modal):
    """`Modal` whose step is one launch: state, poles and weights are read once."""

    def __init__(self, poles: Tensor, weights: Tensor, batch: int) -> None:
        from .triton_kernels import modal_step

        super().__init__(poles, weights, batch)
        self.launch = modal_step
        self.name = self.name.replace("torch", "Triton")

    def step(self, u_t: Tensor) -> Tensor:
        """u_t: (B, D)."""
        return self.launch(self.x, self.poles, self.weights, u_t)
