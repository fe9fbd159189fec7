"""Key–value caches that are not copied for every token."""

from torch import Tensor
from transformers.cache_utils import DynamicLayer

SPARE = 64  # tokens that there is room for at least, when more is made


class RoomyLayer(DynamicLayer):
    """A layer's keys and values with room for what is to come: a token that is added moves none that is there.

    transformers' own layer is one tensor, copied whole for every token. Here it is copied when its room is full, into
    half as much again, so that a batch whose responses end early takes no memory for the longest that they might be.
    """

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.move(layer.keys, layer.values, 1)

    def move(self, keys: Tensor, values: Tensor, more: int) -> None:
        """Copy keys and values [rows, groups, tokens, size of either] to the front of new room for `more` tokens."""
        self.used = keys.shape[2]
        self.length = self.used + max(more, SPARE, self.used // 2)
        self.room = [states.new_empty((*states.shape[:2], self.length, states.shape[3])) for states in (keys, values)]
        if keys.device.type == "cpu":  # where q·kᵀ is quicker with keys that lie as columns
            self.room[0] = keys.new_empty((*keys.shape[:2], keys.shape[3], self.length)).transpose(2, 3)
        self.put(keys, values, 0)

    def put(self, keys: Tensor, values: Tensor, start: int) -> None:
        for room, states in zip(self.room, (keys, values), strict=True):
            room[:, :, start : self.used] = states
        self.keys, self.values = (room[:, :, : self.used] for room in self.room)

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        start, more = self.used, key_states.shape[2]
        if start + more > self.length:
            self.move(self.keys, self.values, more)
        self.used += more
        self.put(key_states, value_states, start)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self.move(self.keys[indices], self.values[indices], 1)


def make_room(cache) -> None:
    """Let every layer of a cache that grows by copying have room; layers of other kinds stay as they are."""
    layers = getattr(cache, "layers", [])
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[number] = RoomyLayer(layer)
