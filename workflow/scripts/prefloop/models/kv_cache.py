"""Key-value caches that are not copied for every token."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionCacheLayerMixin

MIN_CAPACITY = 64  # minimum spare capacity, in tokens


class PreallocatedLayer(DynamicLayer):
    """A layer's keys and values with spare capacity, so that adding a token does not move the others.

    transformers' own layer is a tensor that is copied for every token. This one is copied only when its capacity is
    used up, and then grows by half. So responses that end early do not take memory for the longest possible ones.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        assert layer.keys is not None and layer.values is not None, "only a layer that holds tokens is replaced"
        self.lazy_initialization(layer.keys, layer.values)
        self.reallocate(layer.keys, layer.values, 1)

    def reallocate(self, keys: Tensor, values: Tensor, more: int) -> None:
        """Copy keys and values to the front of new buffers.

        Args:
            keys (Tensor): [rows, groups, tokens, size].
            values (Tensor): [rows, groups, tokens, value size].
            more (int): Number of further tokens that have to fit.
        """
        self.used = keys.shape[2]
        self.capacity = self.used + max(more, MIN_CAPACITY, self.used // 2)
        self.buffers = [s.new_empty((*s.shape[:2], self.capacity, s.shape[3])) for s in (keys, values)]
        if keys.device.type == "cpu":  # a CPU computes q·kᵀ faster if keys are columns
            self.buffers[0] = keys.new_empty((*keys.shape[:2], keys.shape[3], self.capacity)).transpose(2, 3)
        self.store(keys, values, 0)

    def store(self, keys: Tensor, values: Tensor, start: int) -> None:
        """Write keys and values at the positions from `start` to `used`."""
        for buffer, states in zip(self.buffers, (keys, values), strict=True):
            buffer[:, :, start : self.used] = states
        self.keys, self.values = (buffer[:, :, : self.used] for buffer in self.buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add the states of new tokens, [rows, groups, new tokens, size], and return those of all tokens."""
        start, more = self.used, key_states.shape[2]
        if start + more > self.capacity:
            self.reallocate(self.keys, self.values, more)
        self.used += more
        self.store(key_states, value_states, start)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only these rows of the batch."""
        self.reallocate(self.keys[indices], self.values[indices], 1)


def select_rows(cache: Cache, indices: Tensor) -> None:
    """Keep these rows of the batch in every layer of a cache; a row may be repeated.

    Layers of linear attention, of convolutions and of state spaces have other methods than those of attention.
    """
    layer: Any
    for layer in cache.layers:
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            layer.reorder_cache(indices)  # type: ignore[arg-type]
        else:
            layer.batch_select_indices(indices)


def preallocate(cache: Cache) -> None:
    """Give spare capacity to every layer of a cache that grows by copying; layers of other kinds are not changed."""
    layers = getattr(cache, "layers", [])
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[number] = PreallocatedLayer(layer)
