"""dmlf in torch training scripts. Importing this registers the backend `dmlf`."""

from dmlf.torch.backend import DmlfProcessGroup, register_backend

register_backend()

__all__ = ["DmlfProcessGroup", "register_backend"]
