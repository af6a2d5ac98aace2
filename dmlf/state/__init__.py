"""The state of a training loop of your own: saved and loaded exactly, and dealt anew to ranks."""

from dmlf.state.elastic_function import elastic
from dmlf.state.elastic_sampler import ElasticSampler
from dmlf.state.elastic_state import ElasticState
from dmlf.state.loading import LoadedState, load
from dmlf.state.saving import save

__all__ = ["ElasticSampler", "ElasticState", "LoadedState", "elastic", "load", "save"]
