"""Key–value caches of a known length to come."""

from torch import Tensor
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):
    """A layer's keys and values with room for what is to come: a token that is added moves none that is there.

    transformers' own layer is one tensor that is copied whole for every token.
    """

    def __init__(self, layer: DynamicLayer, length: int):
        """`length` is that of the whole sequences, in tokens."""
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.length = length
        self.keep(layer.keys, layer.values)

    def keep(self, keys: Tensor, values: Tensor) -> None:
        """Copy keys and values [rows, groups, tokens, size] to the front of new room."""
        self.room = [states.new_empty((*states.shape[:2], self.length, states.shape[3])) for states in (keys, values)]
        if keys.device.type == "cpu":  # where q·kᵀ is quicker with keys that lie as columns
            self.room[0] = keys.new_empty((*keys.shape[:2], keys.shape[3], self.length)).transpose(2, 3)
        self.used = 0
        self.update(keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Tensor, Tensor]:
        start, self.used = self.used, self.used + key_states.shape[2]
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, start : self.used] = states
        self.keys, self.values = (room[:, :, : self.used] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self.keep(self.keys[indices], self.values[indices])


def make_room(cache, tokens: int) -> None:
    """Give every layer of a cache that grows by copying room for so many tokens more; other layers stay as they are."""
    layers = getattr(cache, "layers", [])
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            layers[number] = RoomyLayer(layer, layer.get_seq_length() + tokens)
