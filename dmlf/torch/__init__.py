"""dmlf in torch training scripts. Importing this registers the backend `dmlf`."""

from dmlf.torch.backend import DmlfProcessGroup, Options, register_backend

register_backend()

__all__ = ["DmlfProcessGroup", "Options", "register_backend"]
