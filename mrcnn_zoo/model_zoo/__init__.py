"""`from mrcnn_zoo import model_zoo`: configs and trained models by name."""

from mrcnn_zoo.model_zoo.models import get, get_checkpoint_url, get_config, info
from mrcnn_zoo.model_zoo.models import names as list  # as Detectron2's users expect: model_zoo.list()

__all__ = ["get", "get_checkpoint_url", "get_config", "info", "list"]
